"""`rankshift embed --level attention` from the command line: the file, what it says of itself, and what is refused."""

import pyarrow.parquet as pq
import pytest

from rankshift.jobs.cli import run_command
from rankshift.jobs.verbs.attention import embed_attention
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.embed.attention import Choice
from rankshift.screen.errors import InputError


def test_edges_of_all_layers_and_heads(bundles, golden, tmp_path, capfd):
    out = tmp_path / "edges.parquet"
    command = ["embed", golden / "v2/cells.parquet", "--bundle", bundles["v2"], "--level", "attention", "--out", out]
    options = ["--layer", "all", "--per-head", "--top", 3, "--min-cells", 4, "--normalise", "length"]
    assert run_command([str(a) for a in command + options]) == 0
    table = pq.read_table(out)
    config = Bundle.open(bundles["v2"]).config
    assert set(table["layer"].to_pylist()) == set(range(1 - config["num_hidden_layers"], 1))
    assert set(table["head"].to_pylist()) == {None, *range(config["num_attention_heads"])}
    assert not any(name.startswith("<") for name in table["source"].to_pylist() + table["target"].to_pylist())
    assert min(table["cells"].to_pylist()) >= 4
    about = table.schema.metadata
    assert about[b"rankshift.normalise"] == f"length/{config['max_position_embeddings']}".encode()
    assert about[b"rankshift.weights_sha256"].decode() == Bundle.open(bundles["v2"]).weights_sha256
    assert "edges of" in capfd.readouterr().err


def test_one_layer_is_the_same_alone(bundles, golden, tmp_path):
    for name, layer in (("all", "all"), ("one", -1)):
        embed_attention(
            golden / "v1/cells.parquet",
            bundles["v1"],
            tmp_path / f"{name}.parquet",
            layer=layer,
            choice=Choice(min_cells=3),
        )
    every, one = pq.read_table(tmp_path / "all.parquet"), pq.read_table(tmp_path / "one.parquet")
    rows = [row for row in every.to_pylist() if row["layer"] == -1]
    assert rows == one.to_pylist()


def test_named_genes_are_sources_and_targets(bundles, golden, tmp_path):
    out = tmp_path / "some.parquet"
    path = golden / "v1/cells.parquet"
    embed_attention(path, bundles["v1"], out, choice=Choice(min_cells=3))
    whole = {(row["source"], row["target"]): row for row in pq.read_table(out).to_pylist()}
    named = list(next(iter(whole)))
    embed_attention(path, bundles["v1"], out, choice=Choice(min_cells=3), genes=named)
    found = pq.read_table(out).to_pylist()
    assert {(row["source"], row["target"]) for row in found} == {tuple(named), tuple(named[::-1])}
    assert next(row for row in found if row["source"] == named[0]) == whole[tuple(named)]


REFUSED = [
    (["--out", "edges.csv"], "edges go to a .parquet"),
    (["--layer", "-3"], "layer -3 has no attention: the model has 3 layers, give 0 (the last) down to -2, or all"),
    (["--layer", "top"], "--layer 'top' is no whole number"),
    (["--normalise", "rows"], "--normalise 'rows' is unknown: use one of none, length"),
    (["--min-cells", "50"], "are in 50 of the 12 cells: lower --min-cells"),
    (["--memory", "0.00001"], "GiB, the limit is 1e-05 ("),
    (["--by", "cell_type"], "--by does not go with --level attention"),
    (["--summary", "median"], "--summary does not go with --level attention"),
    (["--level", "gene", "--top", "3"], "--top does not go with --level gene"),
    (["--level", "cell", "--layer", "all"], "layer all is for attention"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_is_refused(options, message, bundles, golden, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"--level": "attention", "--out": "edges.parquet", "--min-cells": "3"}
    if "--level" in options:
        del given["--min-cells"]
    given |= dict(zip(options[::2], options[1::2], strict=True))
    line = ["embed", str(golden / "v1/cells.parquet"), "--bundle", str(bundles["v1"])]
    assert run_command(line + [part for pair in given.items() for part in pair]) == 2
    told = capfd.readouterr().err
    assert message in told
    assert not list(tmp_path.iterdir())


def test_pairs_that_share_too_few_cells_are_refused(bundles, golden, tmp_path):
    bundle = Bundle.open(bundles["v1"])
    table = pq.read_table(golden / "v1/cells.parquet")
    lists = [set(ids) for ids in table["input_ids"].to_pylist()]
    tokens = set().union(*lists)
    apart = next((a, b) for a in tokens for b in tokens if a < b and not any({a, b} <= ids for ids in lists))
    genes = [bundle.vocabulary.ensembl_id[t] for t in apart]
    with pytest.raises(InputError, match="no two genes share 1 of the 12 cells"):
        embed_attention(
            golden / "v1/cells.parquet", bundles["v1"], tmp_path / "x.parquet", genes=genes, choice=Choice(min_cells=1)
        )
    assert not list(tmp_path.iterdir())
