"""Pretraining: what is hidden, how batches are cut, that it learns, and that a stop or a second run leaves no trace."""

import json
import math
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM

from rankshift.jobs.cli import run_command
from rankshift.jobs.pretraining.masking import mask
from rankshift.jobs.pretraining.objective import JUDGE, held_out_loss, masked_loss, new_model, split
from rankshift.jobs.pretraining.options import Pretraining, model_config, read_config
from rankshift.jobs.pretraining.pretrain import pretrain
from rankshift.jobs.pretraining.unigram import unigram_entropy, unigram_loss
from rankshift.jobs.training import trainer
from rankshift.jobs.training.batching import length_batches
from rankshift.jobs.training.metrics import read as read_metrics
from rankshift.jobs.verbs.demo import MYOBLASTS
from rankshift.jobs.verbs.demo import TINY as DEMO
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.cell_embeddings import embed
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError, Stopped
from rankshift.screen.genes.token_space import VocabularyOnly
from rankshift.screen.genes.vocabulary import Vocabulary, make_vocabulary
from rankshift.screen.tokenizer.tokenize import tokenize
from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")

PROGRAMMES, GENES = 4, 12  # of genes that are expressed together, and genes of each
TINY = Pretraining(
    layers=2, width=32, heads=2, inner=64, epochs=25, batch_tokens=128, learning_rate=5e-3, warmup=0.1, held_out=0.1,
    hidden_share=0.3, initializer=0.1,
)  # fmt: skip
QUICK = Pretraining(layers=1, width=16, heads=1, inner=16, epochs=1, batch_tokens=64, held_out=0.1)


def vocabulary(framed: bool = False) -> Vocabulary:
    names = ["<pad>", "<mask>", *(["<cls>", "<eos>"] if framed else [])]
    names += [f"ENSG{i:011d}" for i in range(PROGRAMMES * GENES)]
    return make_vocabulary({name: token for token, name in enumerate(names)})


def some_cells(table: Vocabulary, lists: list[np.ndarray]) -> Cells:
    special = table.special
    if special.cls is not None:
        lists = [np.concatenate([[special.cls], x, [special.eos]]) for x in lists]
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in lists])])
    obs = pa.table({"cell_id": [f"c{i}" for i in range(len(lists))]})
    return Cells(ids=np.concatenate(lists).astype(np.int32), offsets=offsets, obs=obs, frame=table.frame_tokens.frame)


def programme_cells(table: Vocabulary, cells: int = 200) -> Cells:
    """Every cell holds 5 to 9 genes of one programme, in random order: hidden genes follow from the shown ones."""
    rng = np.random.default_rng(1)
    first = int(np.argmax(table.is_gene))
    return some_cells(
        table,
        [first + GENES * (i % PROGRAMMES) + rng.permutation(GENES)[: rng.integers(5, 10)] for i in range(cells)],
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """(cells.parquet, vocabulary.parquet) of cells with programmes."""
    folder, table = tmp_path_factory.mktemp("programmes"), vocabulary()
    table.write(folder / "vocabulary.parquet")
    programme_cells(table).write(folder / "cells.parquet", table)
    return folder / "cells.parquet", folder / "vocabulary.parquet"


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory) -> Bundle:
    return pretrain(*files, tmp_path_factory.mktemp("trained") / "bundle", TINY, say=lambda line: None)


def read(files: tuple[Path, Path]) -> tuple[Cells, Vocabulary]:
    draft = VocabularyOnly.open(files[1])
    return Cells.read(files[0], draft), draft.vocabulary


@pytest.mark.slow
def test_it_learns_which_genes_go_together(trained):
    losses = trained.config["pretraining"]
    assert losses["unigram_entropy"] == pytest.approx(math.log(PROGRAMMES * GENES), abs=0.02)
    # The programme of a cell is worth log 4 = 1.386 nats, and genes that are shown cannot be hidden ones.
    assert losses["held_out_loss"] < losses["unigram_entropy"] - 1.0
    assert losses["loss"] < losses["unigram_entropy"] - 1.0
    assert losses["held_out_loss"] > math.log(GENES - 9)


@pytest.mark.slow
def test_on_real_cells_it_learns_more_than_gene_frequencies(tmp_path):
    """The demo's cells, with fewer genes of each and a narrower model than in the demo, which takes a minute and a half."""
    build_vocabulary(MYOBLASTS, tmp_path / "vocabulary.parquet")
    draft = VocabularyOnly.open(tmp_path / "vocabulary.parquet", 256)
    tokenize(MYOBLASTS, draft, tmp_path / "cells.parquet", keep=["hours"])
    options = replace(DEMO, layers=1, width=32, heads=1, inner=32, learning_rate=3e-3)
    paths = tmp_path / "cells.parquet", tmp_path / "vocabulary.parquet", tmp_path / "bundle"
    losses = pretrain(*paths, options, say=lambda line: None).config["pretraining"]
    assert losses["loss"] < losses["unigram_entropy"] - 0.05
    assert losses["held_out_loss"] < losses["held_out_unigram"]


@pytest.mark.slow
def test_transformers_opens_it_and_gives_the_recorded_loss(trained, files):
    cells, table = read(files)
    model = BertForMaskedLM.from_pretrained(trained.path).eval()
    assert (model.config.hidden_act, model.config.layer_norm_eps) == ("relu", 1e-12)
    _, judged = split(len(cells), TINY)
    assert held_out_loss(model, cells, judged, table, TINY) == trained.config["pretraining"]["held_out_loss"]
    # Its own loss, from logits at all places and labels of -100 where nothing is hidden, is ours.
    batch = mask(cells, judged, table, TINY.hidden_share, (TINY.seed, JUDGE, 0))
    labels = torch.full_like(batch.shown, -100)
    labels[batch.hidden] = batch.genes
    with torch.no_grad():
        theirs = model(input_ids=batch.shown, attention_mask=batch.real, labels=labels).loss
        summed, count = masked_loss(model, batch)
        assert float(summed) / count == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.slow
def test_our_encoder_reads_it(trained, files):
    cells, _ = read(files)
    model = BertForMaskedLM.from_pretrained(trained.path).eval()
    encoder = Encoder(trained)
    ours = [embed(cells, encoder, level="cell", layer_count=n, tokens=500) for n in (1, 2)]
    for cell in (0, 7, 150):
        with torch.no_grad():
            states = model.bert(torch.tensor(cells.ids_of(cell)[None].astype(np.int64)), output_hidden_states=True)
        for n in (1, 2):
            theirs = states.hidden_states[n][0].mean(0).numpy()
            np.testing.assert_allclose(ours[n - 1][cell], theirs, atol=1e-5)


@pytest.mark.slow
def test_a_seed_decides_everything(trained, files, tmp_path):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = pretrain(*files, tmp_path / "again", TINY, say=lambda line: None)
    assert again.weights_sha256 == trained.weights_sha256
    assert again.config == trained.config
    assert torch.equal(torch.get_rng_state(), before)
    one = pretrain(*files, tmp_path / "one", QUICK, say=lambda line: None)
    other = pretrain(*files, tmp_path / "other", Pretraining(**{**asdict(QUICK), "seed": 1}), say=lambda line: None)
    assert one.weights_sha256 != other.weights_sha256


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_weights(trained, files, tmp_path, monkeypatch):
    out = tmp_path / "bundle"
    save, saved = trainer.save, []

    def save_and_press(*arguments):
        save(*arguments)
        saved.append(arguments[3]["step"])
        if len(saved) == 30:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save", save_and_press)
        with pytest.raises(Stopped):
            pretrain(*files, out, replace(TINY, save_every=0.0), say=lambda line: None)
    assert saved == [*range(1, 31), 30]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle.training"]
    with pytest.raises(InputError, match=r"bundle.training is an unfinished training: continue it with --resume"):
        pretrain(*files, out, TINY, say=lambda line: None)
    with pytest.raises(InputError, match="other cells or options"):
        pretrain(*files, out, Pretraining(**{**asdict(TINY), "epochs": 26}), resume=True, say=lambda line: None)
    said: list[str] = []
    resumed = pretrain(*files, out, TINY, resume=True, say=said.append)
    assert "going on after step 30" in said
    assert resumed.weights_sha256 == trained.weights_sha256
    assert resumed.config == trained.config
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


def test_framed_cells_make_a_v2_bundle(tmp_path):
    table = vocabulary(framed=True)
    table.write(tmp_path / "v.parquet")
    programme_cells(table, 20).write(tmp_path / "c.parquet", table)
    made = pretrain(tmp_path / "c.parquet", tmp_path / "v.parquet", tmp_path / "b", QUICK, say=lambda line: None)
    assert made.generation == "v2"
    assert made.input_size == int(Cells.read(tmp_path / "c.parquet", made).lengths.max())


def test_from_the_command_line(files, tmp_path, capfd):
    out = tmp_path / "b"
    options = [
        "--layers",
        "1",
        "--width",
        "16",
        "--heads",
        "1",
        "--inner",
        "16",
        "--epochs",
        "1",
        "--batch-tokens",
        "99",
    ]
    line = ["pretrain", str(files[0]), "--vocabulary", str(files[1]), "--out", str(out), *options]
    assert run_command(line) == 0
    assert "unigram entropy 3.8" in capfd.readouterr().err
    config = json.loads((out / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"], config["pretraining"]["learning_rate"]) == (1, 16, 1e-3)
    assert run_command(line) == 2
    assert f"{out} exists: give another --out" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 30, "heads": 4}, "width 30 is no multiple of 4 heads"),
        ({"epochs": 0}, "epochs is 0: give at least 1"),
        ({"hidden_share": 0.0}, "hidden_share is 0.0: give a share between 0 and 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        Pretraining(**options)


@pytest.mark.parametrize(
    ("name", "tokens", "weights"),
    [
        ("v1-10m", 25_426, 10_288_722),
        ("12l-30m", 25_426, 39_591_250),
        ("12l-95m", 20_275, 37_997_363),
        ("20l-95m", 20_275, 151_313_459),
        ("v2-104m", 20_275, 104_386_867),
        ("v2-316m", 20_275, 316_354_867),
    ],
)
def test_presets_have_the_published_sizes(name, tokens, weights):
    options = Pretraining.preset(name)
    table = vocabulary()
    assert options.positions is not None
    config = model_config(options, table, options.positions)
    config.vocab_size = tokens
    with torch.device("meta"):
        model = BertForMaskedLM(config)
    assert sum(p.numel() for p in model.parameters()) == weights
    assert config.hidden_size == 64 * config.num_attention_heads
    assert Pretraining.preset(name, epochs=7) == replace(options, epochs=7)


def test_a_preset_that_is_none():
    with pytest.raises(InputError, match="preset 'v3' is unknown: use v1-10m, 12l-30m"):
        Pretraining.preset("v3")


def test_any_bert_config(files, tmp_path, capfd):
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
    published = BertConfig(**shape, hidden_act="gelu", max_position_embeddings=64, vocab_size=99, layer_norm_eps=1e-6)
    published.save_pretrained(tmp_path)
    out = tmp_path / "bundle"
    line = ["pretrain", str(files[0]), "--vocabulary", str(files[1]), "--out", str(out), "--epochs", "1"]
    line += ["--config", str(tmp_path / "config.json")]
    assert run_command(line) == 0
    bundle = Bundle.open(out)
    assert {name: bundle.config[name] for name in shape} == shape
    assert (bundle.config["hidden_act"], bundle.config["layer_norm_eps"]) == ("gelu", 1e-6)
    assert (bundle.input_size, bundle.config["vocab_size"]) == (64, PROGRAMMES * GENES + 2)
    assert run_command([*line, "--width", "32"]) == 2
    assert "--config and --width both give the shape" in capfd.readouterr().err
    for wrong, message in (
        ({"model_type": "gpt2"}, "not 'bert'"),
        ({"hidden_act": "mish"}, "hidden_act 'mish' is not implemented"),
        ({"model_type": [[]]}, r"model_type of .* is \[\[\]\], not 'bert'"),
        ({"hidden_dropout_prob": 1.5}, r"no BertConfig \(hidden_dropout_prob is 1.5, 0 to 1 is needed\)"),
        ({"attention_probs_dropout_prob": -0.98}, r"attention_probs_dropout_prob is -0.98, 0 to 1 is needed"),
        ({"initializer_range": float("nan")}, r"initializer_range is nan, 0 to 1 is needed"),
        ({"num_hidden_layers": 2**64}, r"num_hidden_layers is 18446744073709551616, a count from 1 to 1,000 is needed"),
        ({"type_vocab_size": 10**400}, r"type_vocab_size is 1000+, a count from 1 to 65,536 is needed"),
        ({"intermediate_size": float("inf")}, r"no BertConfig"),
        ({"num_hidden_layers": 2.0}, r"no BertConfig"),
        ({"hidden_size": 25, "num_attention_heads": 4}, "hidden_size 25 is no multiple of 4 heads"),
        ([1], "holds a list, not an object"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=message):
            read_config(tmp_path / "config.json")


@pytest.mark.slow
def test_the_curve_ends_in_the_bundle(trained):
    rows = read_metrics(trained.path / "metrics" / "metrics.csv")
    facts = trained.config["pretraining"]
    assert int(rows[-1]["step"]) == facts["steps"]
    assert float(rows[-1]["held_out_loss"]) == facts["held_out_loss"]
    assert [int(row["epoch"]) for row in rows if row["held_out_loss"]] == list(range(1, TINY.epochs + 1))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.8


def test_padding_is_under_two_percent_of_cells_of_mixed_length():
    """Lengths as of real cells: lognormal, cut at 2048 (TS 2.4 finds 42 % in random batches of 12)."""
    lengths = np.minimum(np.random.default_rng(0).lognormal(7.0, 0.7, 20_000), 2048).astype(int)
    rows = np.arange(len(lengths))

    def padding(batches: list[np.ndarray]) -> float:
        places = sum(len(batch) * lengths[batch].max() for batch in batches)
        return float(1 - lengths.sum() / places)

    assert padding(length_batches(rows, lengths, 24_576, (0,))) < 0.02
    assert padding(np.array_split(rows, len(rows) // 12)) > 0.3


def test_cells_taken_from_a_batch_keep_what_is_hidden():
    table = vocabulary()
    genes = np.flatnonzero(table.is_gene)
    cells = some_cells(table, [genes[:n] for n in (9, 4, 7, 4, 4)])
    batch = mask(cells, np.arange(5), table, 0.5, (0,))
    for which, size, padded in (([0, 2], 9, True), ([1, 3, 4], 4, False), ([2, 4], 7, True)):
        part = batch.take(np.array(which))
        assert part.shown.shape == (len(which), size)
        assert (part.real is not None) == padded
        for row, cell in enumerate(which):
            assert part.shown[row].tolist() == batch.shown[cell, :size].tolist()
            assert part.hidden[row].tolist() == batch.hidden[cell, :size].tolist()
            before = int(batch.hidden[:cell].sum())
            mine = int(part.hidden[:row].sum())
            n = int(part.hidden[row].sum())
            assert part.genes[mine : mine + n].tolist() == batch.genes[before : before + n].tolist()


def test_cells_that_do_not_fit(files, tmp_path):
    other = make_vocabulary({"<pad>": 0, "<mask>": 1, "ENSG00000000003": 2})
    other.write(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="another vocabulary"):
        pretrain(files[0], tmp_path / "other.parquet", tmp_path / "b", QUICK)
    one = some_cells(other, [np.array([2])])
    one.write(tmp_path / "one.parquet", other)
    with pytest.raises(InputError, match="1 cell cannot be split"):
        pretrain(tmp_path / "one.parquet", tmp_path / "other.parquet", tmp_path / "b", QUICK)
    with pytest.raises(InputError, match="the model takes 4"):
        pretrain(*files, tmp_path / "b", Pretraining(input_size=4))
    assert not (tmp_path / "b").exists()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    framed=st.booleans(),
    share=st.floats(0.001, 0.9),
    seed=st.integers(0, 2**31),
)
def test_only_genes_are_hidden_and_only_genes_replace_them(sizes, framed, share, seed):
    table = vocabulary(framed)
    rng = np.random.default_rng(seed)
    genes = np.flatnonzero(table.is_gene)
    cells = some_cells(table, [rng.permutation(genes)[:n] for n in sizes])
    rows = np.arange(len(cells))
    batch = mask(cells, rows, table, share, (seed, 0))
    shown, hidden = batch.shown.numpy(), batch.hidden.numpy()
    real = np.ones_like(hidden) if batch.real is None else batch.real.numpy()
    assert real.sum(1).tolist() == cells.lengths.tolist()
    assert (shown[~real] == table.special.pad).all()
    original = np.full(shown.shape, table.special.pad)
    original[real] = cells.ids
    assert hidden.any()
    assert table.is_gene[original[hidden]].all()
    assert batch.genes.tolist() == original[hidden].tolist()
    np.testing.assert_array_equal(shown[~hidden], original[~hidden])
    changed = shown[hidden]
    assert (table.is_gene[changed] | (changed == table.special.mask)).all()


def test_shares_are_the_published_ones():
    table = vocabulary()
    genes = np.flatnonzero(table.is_gene)
    cells = some_cells(table, [genes] * 2000)  # 96,000 places
    batch = mask(cells, np.arange(2000), table, 0.15, (3,))
    shown = batch.shown[batch.hidden].numpy()
    assert batch.real is None
    assert float(batch.hidden.float().mean()) == pytest.approx(0.15, abs=0.005)
    assert (shown == table.special.mask).mean() == pytest.approx(0.8, abs=0.015)
    # A tenth is drawn anew, and one draw in 48 gives the gene that stood there.
    assert (shown == batch.genes.numpy()).mean() == pytest.approx(0.1 + 0.1 / 48, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=80),
    tokens=st.integers(1, 400),
    seed=st.integers(0, 1000),
)
def test_batches_hold_every_cell_once_within_the_budget(lengths, tokens, seed):
    size = np.array(lengths)
    rows = np.flatnonzero(np.arange(len(size)) % 3 != 1)
    if not len(rows):
        return
    batches = length_batches(rows, size, tokens, (seed,))
    assert sorted(np.concatenate(batches).tolist()) == rows.tolist()
    for batch in batches:
        assert len(batch) == 1 or size[batch].max() * len(batch) <= tokens
    assert size[batches[0]].max() == size[rows].max()


def test_padding_is_small():
    size = np.minimum(np.random.default_rng(0).lognormal(6.5, 0.8, 20_000).astype(int) + 1, 2048)
    batches = length_batches(np.arange(len(size)), size, 24_576, (0,))
    places = sum(size[b].max() * len(b) for b in batches)
    assert 1 - size.sum() / places < 0.03  # random batches of 12: about 0.5


def test_padding_changes_no_loss():
    table = vocabulary()
    cells = some_cells(table, [np.arange(2, 32), np.arange(20, 30)])
    torch.manual_seed(0)
    model = new_model(QUICK, table, cells.ids, 30).eval()
    batch = mask(cells, np.array([0, 1]), table, 0.5, (0,))
    assert batch.real is not None
    with torch.no_grad():
        both = float(masked_loss(model, batch)[0])
        alone = 0.0
        for row, size in ((0, 30), (1, 10)):
            shown, hidden = batch.shown[row : row + 1, :size], batch.hidden[row : row + 1, :size]
            logits = model(input_ids=shown).logits[hidden]
            genes = batch.genes[:0] if not hidden.any() else torch.tensor(cells.ids_of(row).astype(np.int64))[hidden[0]]
            alone += float(torch.nn.functional.cross_entropy(logits, genes, reduction="sum"))
    assert both == pytest.approx(alone, rel=1e-5)


def test_a_new_model_knows_how_common_genes_are():
    table = vocabulary()
    rng = np.random.default_rng(0)
    genes = np.flatnonzero(table.is_gene)
    weights = 1 / np.arange(1, len(genes) + 1)
    cells = some_cells(table, [rng.choice(genes, 10, replace=False, p=weights / weights.sum()) for _ in range(400)])
    torch.manual_seed(0)
    model = new_model(QUICK, table, cells.ids, 10).eval()
    loss = held_out_loss(model, cells, np.arange(400), table, QUICK)
    assert loss == pytest.approx(unigram_entropy(cells.ids, table), abs=0.1)


def test_unigram_entropy_and_loss():
    table = vocabulary(framed=True)
    genes = np.flatnonzero(table.is_gene)
    assert unigram_entropy(np.tile(genes[:8], 5), table) == pytest.approx(math.log(8))
    assert unigram_entropy(np.array([2, 3, genes[0], genes[0], 3]), table) == 0.0  # <cls> and <eos> do not count
    known = np.repeat(genes, 10_000)
    assert unigram_loss(known, np.array([2, *genes]), table) == pytest.approx(math.log(len(genes)), abs=1e-3)
    assert unigram_loss(known[:-10_000], genes[-1:], table) > 12  # never seen, and yet finite


def test_held_out_cells_are_not_trained_on():
    train, judged = split(271, Pretraining(held_out=0.1))
    assert (len(train), len(judged)) == (244, 27)
    assert sorted([*train.tolist(), *judged.tolist()]) == list(range(271))
    assert [len(x) for x in split(2, Pretraining(held_out=0.99))] == [1, 1]
