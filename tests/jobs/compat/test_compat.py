"""The published classes: golden cases through their own options, their files, what deviates and what is refused."""

import json
import pickle
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from rankshift.compat import (
    Deviation,
    EmbExtractor,
    InSilicoPerturber,
    InSilicoPerturberStats,
    TranscriptomeTokenizer,
)
from rankshift.compat.pickles import as_run
from rankshift.compat.statistics import pairs
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.genes.vocabulary import read_vocabulary
from rankshift.screen.runs.run import Run
from support import GOLDEN, LEVEL, golden_cases

STATES = {"state_key": "disease", "start_state": "dcm", "goal_state": "nf", "alt_states": ["hcm"]}
CASES = golden_cases("shifts")
EMBEDDINGS = golden_cases("embeddings")


def dictionary(generation: str) -> dict:
    return {"token_dictionary_file": str(GOLDEN / generation / "token_dictionary.pkl")}


def vectors(generation: str) -> dict[str, torch.Tensor]:
    found = json.loads((GOLDEN / generation / "state_embeddings.json").read_text())
    return {state: torch.tensor(vector)[None] for state, vector in found.items()}


def perturb(generation: str, out: Path, prefix: str = "x", **options) -> list[Path]:
    """Pickles of a perturbation of the golden cells."""
    options = {"emb_mode": LEVEL[generation], "nproc": 1, "workers": 0, **dictionary(generation), **options}
    root = GOLDEN / generation
    InSilicoPerturber(**options).perturb_data(str(root / "model"), str(root / "cells.dataset"), str(out), prefix)
    return sorted(out.glob("*_raw.pickle"))


def values(files: list[Path]) -> dict:
    """Values by (state or None, perturbed, affected), files by the number of their cell."""
    out = defaultdict(list)
    for file in sorted(
        files, key=lambda f: int(f.name.split("embs_")[1].split("batch")[0]) if "batch" in f.name else 0
    ):
        for key, value in pickle.loads(file.read_bytes()).items():
            for inner, some in value.items() if isinstance(value, dict) else [(key, value)]:
                out[(key if isinstance(value, dict) else None, *inner)] += some if isinstance(some, list) else [some]
    return dict(out)


def golden(cells: list) -> dict:
    def token(k):
        return tuple(k) if isinstance(k, list) else k

    def key(k):
        return (k[0], token(k[1][0]), k[1][1]) if isinstance(k[1], list) else (None, token(k[0]), k[1])

    return {key(k): v for k, v in cells}


def assert_same(got: dict, want: dict) -> None:
    assert got.keys() == want.keys()
    for key, some in want.items():
        assert got[key] == pytest.approx(some, abs=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["delete_all_goal", "delete_list3", "delete_anchor", "overexpress_absent", "delete_all_max5"]
)
def test_golden_cases_through_the_published_options(name, generation, tmp_path):
    case = CASES[generation][name]
    arguments = dict(case["arguments"])
    if arguments.get("cell_states_to_model"):
        arguments["state_embs_dict"] = vectors(generation)
    files = perturb(generation, tmp_path, **arguments)
    assert_same(values(files), golden(case["cell"]))


@pytest.mark.slow
def test_gene_values_and_their_published_labels(generation, tmp_path):
    case = CASES[generation][f"overexpress_all_{LEVEL[generation]}_and_gene"]
    files = perturb(generation, tmp_path, **case["arguments"], reference_labels=True)
    assert_same(values([f for f in files if "gene_embs" in f.name]), golden(case["gene"]))


@pytest.mark.slow
def test_slices_of_the_cells_number_their_files_on(tmp_path):
    whole = values(perturb("v1", tmp_path / "whole"))
    perturb("v1", tmp_path / "parts", cell_inds_to_perturb={"start": 0, "end": 5})
    with pytest.warns(Deviation) as told:
        files = perturb("v1", tmp_path / "parts", cell_inds_to_perturb={"start_ind": 5, "end_ind": 50})
    assert {w.filename for w in told} == {__file__}  # shown at the caller's line
    assert len(files) == 12
    assert_same(values(files), whole)


def test_filters_and_callers_dictionaries(tmp_path):
    states, filters = dict(STATES), {"cell_type": "CM", "length": list(range(100))}
    table = Cells.read(GOLDEN / "v1/cells.dataset", Bundle.open(bundle_of("v1", tmp_path)))
    kinds = table.obs["cell_type"].to_pylist()
    filters["cell_type"] = kinds[0]
    chosen = [k == kinds[0] and d == "dcm" for k, d in zip(kinds, table.obs["disease"].to_pylist(), strict=True)]
    files = perturb(
        "v1", tmp_path / "out", filter_data=filters, cell_states_to_model=states, state_embs_dict=vectors("v1")
    )
    assert len(files) == sum(chosen) > 0
    assert filters == {"cell_type": kinds[0], "length": list(range(100))}
    assert states == STATES


def bundle_of(generation: str, folder: Path) -> Path:
    from rankshift.screen.bundle.bundle import make_bundle

    root = GOLDEN / generation
    return make_bundle(root / "model", root / "token_dictionary.pkl", folder / "bundle").path


def test_activation_and_a_run_that_is_kept(tmp_path):
    files = perturb(
        "v2", tmp_path / "out", perturb_type="activate", perturb_rank_shift=1, run_directory=tmp_path / "run"
    )
    run = Run.open(tmp_path / "run")
    assert run.manifest["perturb"]["rank_shift"] == 1
    rows = run.sql("SELECT count(*) AS n FROM shifts")["n"][0].as_py()
    assert sum(map(len, values(files).values())) == rows > 0
    again = perturb("v2", tmp_path / "more", perturb_type="activate", perturb_rank_shift=1, run_directory=run.path)
    assert values(again) == values(files)


def test_genes_outside_the_dictionary_are_left_out_with_a_warning(tmp_path):
    case = CASES["v2"]["delete_list1"]
    genes = [*case["arguments"]["genes_to_perturb"], "ENSG00000000000"]
    with pytest.warns(Deviation, match="1 genes are not in the token dictionary"):
        files = perturb("v2", tmp_path, genes_to_perturb=genes)
    assert_same(values(files), golden(case["cell"]))


@pytest.mark.slow
def test_shifts_of_pairs_between_states(tmp_path):
    anchor = CASES["v1"]["delete_anchor"]["arguments"]["anchor_gene"]
    token = read_vocabulary(GOLDEN / "v1/token_dictionary.pkl").token_of(anchor)
    with pytest.warns(Deviation, match="shifts between states are those of the pairs"):
        files = perturb(
            "v1",
            tmp_path / "pairs",
            combos=1,
            anchor_gene=anchor,
            cell_states_to_model=STATES,
            state_embs_dict=vectors("v1"),
        )
    found = values(files)
    assert {state for state, _, _ in found} == {"dcm", "nf", "hcm"}
    assert token not in {perturbed for _, perturbed, _ in found}
    gene = next(iter(found))[1]
    both = [read_vocabulary(GOLDEN / "v1/token_dictionary.pkl").gene_of[t] for t in (token, gene)]
    joint = perturb(
        "v1", tmp_path / "joint", genes_to_perturb=both, cell_states_to_model=STATES, state_embs_dict=vectors("v1")
    )
    assert values(joint)["nf", (token, gene), "cell_emb"] == pytest.approx(found["nf", gene, "cell_emb"], abs=1e-6)


REFUSED = [
    ({"token_dictionary_file": None}, "token_dictionary_file is None, and the published dictionaries are not shipped"),
    ({"perturb_type": "knockdown"}, "perturb_type is 'knockdown': use one of 'delete', 'overexpress'"),
    ({"genes_to_perturb": "ENSG90000000648"}, "genes_to_perturb is 'ENSG90000000648': use one of 'all'"),
    ({"genes_to_perturb": ["ENSG1", "ENSG2"]}, "none of the 2 genes to perturb is in"),
    ({"genes_to_perturb": []}, "genes_to_perturb is an empty list"),
    ({"combos": 1}, "combos=1 needs anchor_gene"),
    ({"combos": 2}, "combos is 2: use one of 0, 1"),
    ({"anchor_gene": "ENSG90000000956"}, "makes pairs with combos=1 only"),
    ({"emb_mode": "cls"}, "emb_mode 'cls' needs <cls>, .* has none: use 'cell'"),
    ({"emb_layer": -2}, "emb_layer is -2: use one of -1, 0"),
    ({"max_ncells": 0}, "max_ncells is 0: give a whole number"),
    ({"model_type": "GPT"}, "model_type is 'GPT'"),
    ({"model_version": "V2"}, "model_version is V2, the token dictionary is of V1"),
    ({"filter_data": ["dcm"]}, "filter_data is a list"),
    ({"filter_data": {"illness": ["dcm"]}}, "'illness' is not a column"),
    ({"filter_data": {"disease": ["flu"]}}, "no cell has disease in \\['flu'\\]: the column holds"),
    ({"cell_inds_to_perturb": {"start": 3}}, "cell_inds_to_perturb is"),
    ({"cell_inds_to_perturb": {"start": 30, "end": 40}}, "starts at 30, there are 12 cells"),
    ({"cell_states_to_model": STATES}, "needs state_embs_dict"),
    ({"cell_states_to_model": STATES, "state_embs_dict": {"dcm": [1.0], "nf": [1.0]}}, "state 'hcm' is not in"),
    ({"cell_states_to_model": {"state_key": "disease"}, "state_embs_dict": {}}, "lacks start_state"),
    ({"perturb_type": "activate"}, "activate needs either"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_line_and_nothing_stays(options, message, tmp_path):
    with pytest.raises(InputError, match=message) as refused:
        perturb("v1", tmp_path / "out", **options)
    assert "\n" not in str(refused.value)
    assert not [f for f in tmp_path.rglob("*") if f != tmp_path / "out"]


def test_framed_cells_are_not_pooled(tmp_path):
    with pytest.raises(InputError, match="the cells begin with <cls>, emb_mode is 'cell': use 'cls'"):
        perturb("v2", tmp_path, emb_mode="cell")


def extract(generation: str, **options) -> EmbExtractor:
    return EmbExtractor(**{"emb_mode": LEVEL[generation], "max_ncells": None, **dictionary(generation), **options})


def paths(generation: str, out: Path) -> tuple[str, str, str, str]:
    root = GOLDEN / generation
    return str(root / "model"), str(root / "cells.dataset"), str(out), "x"


def table(name: str, generation: str) -> pd.DataFrame:
    return pd.DataFrame(**EMBEDDINGS[generation][name])


def test_embeddings_of_cells_in_the_frame_and_in_the_file(generation, tmp_path):
    for mode in ("cell", LEVEL[generation]):
        for layer in (-1, 0):
            frame, tensor = extract(generation, emb_mode=mode, emb_layer=layer, emb_label=["cell_id"]).extract_embs(
                *paths(generation, tmp_path), output_torch_embs=True
            )
            want = table(f"{mode}_layer{layer}", generation)
            assert list(frame.columns) == list(want.columns)
            assert frame["cell_id"].tolist() == want["cell_id"].tolist()
            np.testing.assert_allclose(frame.iloc[:, :-1], want.iloc[:, :-1], atol=1e-5)
            np.testing.assert_array_equal(tensor, frame.iloc[:, :-1].to_numpy())
            written = pd.read_csv(tmp_path / "x.csv", index_col=0)
            np.testing.assert_allclose(written, frame, atol=1e-6)
    assert [f.name for f in tmp_path.iterdir()] == ["x.csv"]


def test_embeddings_of_genes_are_means_over_their_cells(generation, tmp_path):
    frame = extract(generation, emb_mode="gene").extract_embs(*paths(generation, tmp_path))
    cells = Cells.read(GOLDEN / generation / "cells.dataset", Bundle.open(bundle_of(generation, tmp_path)))
    assert len(frame) == len(np.unique(cells.ids))
    one = extract(generation, emb_mode="gene", summary_stat="exact_mean").extract_embs(*paths(generation, tmp_path))
    want = table("gene_layer-1", generation)  # the published summary of genes: a mean over the rows of genes
    assert list(one.index) == list(want.index) == ["exact_mean"]
    np.testing.assert_allclose(one, want, atol=1e-5)


@pytest.mark.slow
def test_pictures_of_embeddings_have_the_published_names(tmp_path):
    extractor = extract("v1", emb_label=["disease", "cell_id"], labels_to_plot=["disease", "nowhere"])
    frame = extractor.extract_embs(*paths("v1", tmp_path))
    given = frame.copy()
    extractor.plot_embs(frame, "heatmap", tmp_path, "p", max_ncells_to_plot=6)
    with pytest.warns(Deviation, match="kwargs_dict: linewidths of the published plot has no effect here"):
        extractor.plot_embs(frame, "heatmap", tmp_path, "q", kwargs_dict={"linewidths": 2, "cmap": "viridis"})
    pd.testing.assert_frame_equal(frame, given)
    files = {f.name: f.read_bytes() for f in tmp_path.iterdir() if f.suffix == ".pdf"}
    assert sorted(files) == ["p_heatmap_disease.pdf", "q_heatmap_disease.pdf"]
    assert all(content.startswith(b"%PDF") for content in files.values())
    with pytest.raises(InputError, match="plot_style is 'tsne': use one of 'umap', 'heatmap'"):
        extractor.plot_embs(frame, "tsne", tmp_path, "p")
    with pytest.raises(InputError, match="labels_to_plot is None: give a list"):
        extract("v1").plot_embs(frame, "umap", tmp_path, "p")


def test_medians_of_genes_lie_between_their_cells(generation, tmp_path):
    mean, median = (
        extract(generation, emb_mode="gene", summary_stat=kind).extract_embs(*paths(generation, tmp_path))
        for kind in ("mean", "median")
    )
    assert list(mean.index) == list(median.index)
    cells = Cells.read(GOLDEN / generation / "cells.dataset", Bundle.open(bundle_of(generation, tmp_path)))
    once = np.unique(cells.ids, return_counts=True)[1] == 1
    assert 0 < once.sum() < len(once)
    np.testing.assert_allclose(mean[once], median[once], atol=1e-6)
    assert (mean[~once] != median[~once]).any(axis=None)


def test_summaries_of_cells(generation, tmp_path):
    cells = extract(generation).extract_embs(*paths(generation, tmp_path)).to_numpy()
    for kind, want in (("mean", cells.mean(0)), ("median", np.sort(cells, 0)[(len(cells) - 1) // 2])):
        exact = extract(generation, summary_stat=f"exact_{kind}").extract_embs(*paths(generation, tmp_path))
        assert list(exact.index) == [f"exact_{kind}"]
        np.testing.assert_allclose(exact.to_numpy()[0], want, atol=1e-6)
        assert len(pd.read_csv(tmp_path / "x.csv")) == len(cells)
        extract(generation, summary_stat=kind).extract_embs(*paths(generation, tmp_path))
        np.testing.assert_allclose(pd.read_csv(tmp_path / "x.csv", index_col=0).to_numpy()[0], want, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact_mean", "exact_median"])
def test_state_embeddings_go_into_the_perturber(kind, generation, tmp_path):
    states = extract(generation, summary_stat=kind).get_state_embs(STATES, *paths(generation, tmp_path))
    assert list(states) == ["dcm", "nf", "hcm"]
    want = EMBEDDINGS[generation][f"states_{kind}"]
    kept = pickle.loads((tmp_path / "x.pkl").read_bytes())
    for state, vector in want.items():
        np.testing.assert_allclose(states[state], vector, atol=1e-5)
        assert torch.equal(kept[state], states[state])
    files = perturb(generation, tmp_path / "out", cell_states_to_model=STATES, state_embs_dict=states, max_ncells=1)
    assert {state for state, _, _ in values(files)} == {"dcm", "nf", "hcm"}


def test_states_are_matched_whole_or_on_request_by_part(tmp_path):
    stream = pa.ipc.open_stream((GOLDEN / "v1/cells.dataset/data-00000-of-00001.arrow").read_bytes()).read_all()
    labels = ["cm" if i % 2 else label for i, label in enumerate(stream["disease"].to_pylist())]
    changed = stream.set_column(stream.column_names.index("disease"), "disease", pa.array(labels))
    folder = tmp_path / "cells.dataset"
    folder.mkdir()
    with pa.ipc.new_stream(str(folder / "data.arrow"), changed.schema) as writer:
        writer.write_table(changed)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    where = (str(GOLDEN / "v1/model"), str(folder), str(tmp_path), "x")
    route = {**STATES, "alt_states": None}
    with pytest.warns(Deviation, match="state 'dcm' is taken from cells labelled exactly so"):
        whole = extract("v1", summary_stat="exact_mean").get_state_embs(route, *where)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = extract("v1", summary_stat="exact_mean", substring_states=True).get_state_embs(route, *where)
    cells = extract("v1", emb_label=["disease"]).extract_embs(*where)
    for states, kept in ((whole, ["dcm"]), (part, ["dcm", "cm"])):
        rows = cells[cells["disease"].isin(kept)].iloc[:, :-1]
        np.testing.assert_allclose(states["dcm"], rows.mean(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"summary_stat": "max"}, "summary_stat is 'max'"),
        ({"emb_mode": "cls"}, "emb_mode 'cls' needs <cls>"),
        ({"emb_label": "disease"}, "give a list of columns"),
        ({"emb_label": ["illness"]}, "emb_label 'illness' is not a column"),
    ],
)
def test_extractions_that_do_not_fit_are_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        extract("v1", **options).extract_embs(*paths("v1", tmp_path))
    assert not list(tmp_path.iterdir())


def tokenizer(generation: str, **options) -> TranscriptomeTokenizer:
    root = GOLDEN / generation
    given = {
        "custom_attr_name_dict": {"cell_type": "kind"},
        "model_input_size": 64,
        "special_token": generation == "v2",
        "gene_median_file": root / "medians.json",
        "gene_mapping_file": root / "ensembl_mapping.json",
        **dictionary(generation),
    }
    return TranscriptomeTokenizer(**{**given, **options})


@pytest.mark.slow
def test_tokens_are_the_published_ones_in_a_dataset_folder(generation, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/cells.h5ad").write_bytes((GOLDEN / generation / "cells.h5ad").read_bytes())
    for _ in range(2):  # a second time in place of the first
        tokenizer(generation).tokenize_data(tmp_path / "in", tmp_path / "out", "tok", file_format="h5ad")
    want = json.loads((GOLDEN / generation / "tokens.json").read_text())
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["tok.dataset"]
    folder = tmp_path / "out/tok.dataset"
    state, info = (json.loads((folder / f"{name}.json").read_text()) for name in ("state", "dataset_info"))
    published = GOLDEN / generation / "cells.dataset"
    assert state.keys() == json.loads((published / "state.json").read_text()).keys()
    assert list(info["features"]) == ["input_ids", "kind", "length"]
    (stream,) = (folder / entry["filename"] for entry in state["_data_files"])
    found = pa.ipc.open_stream(stream.read_bytes()).read_all()
    theirs = pa.ipc.open_stream((published / "data-00000-of-00001.arrow").read_bytes()).read_all()
    for name in ("input_ids", "length"):
        assert found.schema.field(name).type == theirs.schema.field(name).type
        assert info["features"][name] == json.loads((published / "dataset_info.json").read_text())["features"][name]
    assert json.loads(found.schema.metadata[b"huggingface"])["info"]["features"] == info["features"]
    assert found["input_ids"].to_pylist() == want["input_ids"]
    assert found["length"].to_pylist() == [len(ids) for ids in want["input_ids"]]
    assert len(Cells.read(folder, Bundle.open(bundle_of(generation, tmp_path)))) == len(want["input_ids"])


def test_lists_without_specials_from_a_dictionary_that_has_them(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/cells.h5ad").write_bytes((GOLDEN / "v2/cells.h5ad").read_bytes())
    tokenizer("v2", special_token=False, custom_attr_name_dict=None).tokenize_data(
        tmp_path / "in", tmp_path, "t", "h5ad"
    )
    (stream,) = (tmp_path / "t.dataset").glob("*.arrow")
    found = pa.ipc.open_stream(stream.read_bytes()).read_all()
    framed = json.loads((GOLDEN / "v2/tokens.json").read_text())["input_ids"]
    assert [ids[: len(f) - 2] for ids, f in zip(found["input_ids"].to_pylist(), framed, strict=True)] == [
        f[1:-1] for f in framed
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gene_median_file": None}, "gene_median_file is None"),
        ({"special_token": True}, "special_token is True, .* has no <cls>"),
        ({"custom_attr_name_dict": {"cell_type": "length"}}, "names a column 'length', which is taken"),
        ({"custom_attr_name_dict": {"illness": "state"}}, "has no such obs column"),
        ({"model_input_size": 0}, "model_input_size is 0"),
    ],
)
def test_tokenizers_that_do_not_fit_are_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        tokenizer("v1", **options).tokenize_data(GOLDEN / "v1", tmp_path, "t", file_format="h5ad")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"holds no \.loom file"):
        tokenizer("v1").tokenize_data(GOLDEN / "v1", tmp_path, "t")


JOBS = {g: json.loads((GOLDEN / g / "stats/jobs.json").read_text()) for g in ("v1", "v2")}


def raw(folder: Path, case: dict) -> Path:
    """The raw values of a golden case as the published code pickles them, all in one file of each part."""
    folder.mkdir(exist_ok=True)
    for part in ("cell", "gene"):
        out: dict = {}
        for (state, perturbed, affected), some in golden(case.get(part) or []).items():
            (out if state is None else out.setdefault(state, {}))[perturbed, affected] = some
        if out:
            (folder / f"in_silico_{part}_raw.pickle").write_bytes(pickle.dumps(out))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("generation", "name"),
    [
        (g, name)
        for g in ("v1", "v2")
        for name, result in JOBS[g]["result"].items()
        if result == "ok" and name != "delete_list3__aggregate_data"
    ],
)
def test_published_tables_from_published_pickles(generation, name, tmp_path):
    job = dict(JOBS[generation]["jobs"][name])
    source, null = job.pop("src"), job.pop("null", None)
    folder = raw(tmp_path / "in", CASES[generation][source])
    other = None if null is None else str(raw(tmp_path / "null", CASES[generation][null]))
    names = GOLDEN / generation / "gene_names.json"
    stats = InSilicoPerturberStats(**job, **dictionary(generation), gene_name_id_dictionary_file=names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Deviation)
        stats.get_stats(str(folder), other, str(tmp_path), "out")
    got = pd.read_csv(tmp_path / "out.csv", index_col=0)
    want = pd.read_csv(GOLDEN / generation / "stats" / f"{name}.csv.gz", index_col=0)
    assert list(got.columns) == list(want.columns)
    if job["mode"] == "mixture_model":  # PS B3: which component is that of impact; the rows are the same
        got, want = (f.drop(columns=["Impact_component", "Impact_component_percent"]).sort_index() for f in (got, want))
    if job["mode"] == "aggregate_gene_shifts":  # numbered by when a key was first seen there, by token here
        assert got.Cosine_sim_mean.to_numpy() == pytest.approx(want.Cosine_sim_mean.to_numpy(), abs=2e-7)
        got, want = (f.set_index(["Perturbed", "Affected"]).sort_index() for f in (got, want))
    pd.testing.assert_frame_equal(got, want, check_exact=False, rtol=1e-9, atol=2e-7, check_dtype=False)


def test_from_perturbation_to_the_table_with_nothing_but_these_classes(tmp_path):
    case = CASES["v2"]["delete_list1_cls_and_gene"]
    perturb("v2", tmp_path / "in", **case["arguments"])
    anchor = case["arguments"]["genes_to_perturb"]
    stats = InSilicoPerturberStats(mode="aggregate_gene_shifts", genes_perturbed=anchor, **dictionary("v2"))
    stats.get_stats(tmp_path / "in", None, tmp_path, "genes")
    got = pd.read_csv(tmp_path / "genes.csv", index_col=0)
    want = pd.read_csv(GOLDEN / "v2/stats/delete_list1__aggregate_gene_shifts.csv.gz", index_col=0)
    np.testing.assert_allclose(got.Cosine_sim_mean, want.Cosine_sim_mean, atol=1e-5)
    with pytest.warns(Deviation, match="component of the lower mean"):
        InSilicoPerturberStats(anchor_gene=anchor[0], **dictionary("v2")).get_stats(
            tmp_path / "in", None, tmp_path, "near"
        )
    near = pd.read_csv(tmp_path / "near.csv", index_col=0)
    both = near.merge(want, left_on="Gene", right_on=want.Affected.where(want.Affected != "cell_emb", -1).astype(int))
    assert len(both) == len(near) == len(want) - 1
    np.testing.assert_allclose(both.Test_avg_shift, both.Cosine_sim_mean, atol=1e-5)


@pytest.mark.slow
def test_what_pairs_do_beyond_their_sum(tmp_path):
    case = CASES["v1"]["delete_anchor"]
    perturb("v1", tmp_path / "in", **case["arguments"])
    stats = InSilicoPerturberStats(combos=1, anchor_gene=case["arguments"]["anchor_gene"], **dictionary("v1"))
    stats.get_stats(tmp_path / "in", None, tmp_path, "pairs")
    got = pd.read_csv(tmp_path / "pairs.csv", index_col=0)
    want = golden(case["cell"])
    assert len(got) == len(want)
    for row in got.itertuples():
        assert row.Combo_shift == pytest.approx(np.mean(want[None, row.Gene, "cell_emb"]), abs=1e-6)
        assert row.N_Detections == len(want[None, row.Gene, "cell_emb"])
    np.testing.assert_allclose(got.Sum_of_indiv_shifts, got.Anchor_shift + got.Test_token_shift - 1, atol=1e-9)
    np.testing.assert_allclose(got.Combo_minus_sum_shift, got.Combo_shift - got.Sum_of_indiv_shifts, atol=1e-9)
    assert got.Impact_component.is_monotonic_decreasing
    with pytest.raises(InputError, match=r"holds no file that ends in _triples\.pickle"):
        stats.get_stats(raw(tmp_path / "raw", case), None, tmp_path, "no")


def test_pairs_by_hand(tmp_path):
    """Two genes with the anchor: u, w and c given, the sum is u + w - 1."""
    vocabulary = read_vocabulary(GOLDEN / "v1/token_dictionary.pkl")
    given = {(10,): [(0.9, 0.8, 0.6), (0.7, 0.8, 0.5)], (11,): [(0.9, 1.0, 0.95)]}
    columns = ("similarity_first", "similarity_second", "similarity")
    run = as_run(
        tmp_path / "run",
        {c: {k: [t[i] for t in v] for k, v in given.items()} for i, c in enumerate(columns)},
        vocabulary,
    )
    rows = pairs(run).set_index("Gene")
    assert rows.Anchor_shift[10] == pytest.approx(0.8)
    assert rows.Sum_of_indiv_shifts[10] == pytest.approx(0.6)
    assert rows.Combo_minus_sum_shift[10] == pytest.approx(-0.05)
    assert rows.Combo_minus_sum_shift[11] == pytest.approx(0.05)
    assert rows.index[0] == 10


@pytest.mark.parametrize(
    ("options", "case", "message"),
    [
        ({"mode": "goal_state_shift"}, "delete_all_goal", "cell_states_to_model belongs to mode"),
        ({"mode": "goal_state_shift", "cell_states_to_model": STATES}, "delete_list1", "hold no shifts towards 'nf'"),
        ({"mode": "vs_null"}, "delete_list1", "needs null_dist_data_directory"),
        ({}, "delete_all_goal", "the pickles hold shifts between states"),
        ({"mode": "aggregate_data"}, "delete_list1", "give genes_perturbed as its list"),
        ({"mode": "aggregate_gene_shifts"}, "delete_list1", "hold no gene values"),
        ({"mode": "aggregate_data", "genes_perturbed": ["ENSG90000000012"]}, "delete_list1", "hold no perturbation of"),
        ({"pickle_suffix": "_none.pickle"}, "delete_list1", "holds no file that ends in _none.pickle"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(options, case, message, tmp_path):
    folder = raw(tmp_path / "in", CASES["v2"][case])
    with pytest.raises(InputError, match=message) as refused:
        InSilicoPerturberStats(**options, **dictionary("v2")).get_stats(folder, None, tmp_path / "out", "x")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
