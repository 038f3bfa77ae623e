"""Exported pickles: names, keys, types, order and values of the published code, and what is refused."""

import pickle
import pickletools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rankshift.jobs.cli import run_command
from rankshift.jobs.verbs.export import NAME_BYTES, export, joint_name, write_folder
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.engine.screener import run as screen
from rankshift.screen.errors import InputError
from rankshift.screen.runs.run import Run
from support import GOLDEN, LEVEL, golden_cases

ROUTE = {"state_key": "disease", "start": "dcm", "goal": "nf", "alt": ("hcm",)}
CASES = golden_cases("shifts")


def screened(generation: str, name: str, bundles, out: Path, **options) -> Run:
    """The run of a golden case."""
    a = CASES[generation][name]["arguments"]
    options = {"genes": a["genes_to_perturb"], "embedding": LEVEL[generation], "layer": a["emb_layer"], **options}
    if a["genes_to_perturb"] != "all":
        options["how"] = "together"
    if a.get("anchor_gene"):
        options |= {"how": "pairs", "anchor": a["anchor_gene"]}
    if "and_gene" in a["emb_mode"]:
        options |= {"gene_shifts": True, "per_cell": True}
    if a.get("cell_states_to_model"):
        options |= {**ROUTE, "states": GOLDEN / generation / "state_embeddings.json"}
    cells = GOLDEN / generation / "cells.parquet"
    return screen(
        cells,
        bundles[generation],
        out,
        perturb=a["perturb_type"],
        dtype="float32",
        shard_tokens=3000,
        reference_overflow=True,
        **options,
    )


def number(path: Path) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"(-?\d+)batch(-?\d+)", path.name)[0])


def merged(files: list[Path]) -> dict:
    """The dictionaries of several files, lists of equal keys behind each other, as the published statistics read them."""
    out: dict = {}
    for file in files:
        for key, values in pickle.loads(file.read_bytes()).items():
            out.setdefault(key, []).extend(values if isinstance(values, list) else [values])
    return out


def golden(values: list) -> dict:
    """{key: values} with the keys of the published code."""

    def token(k):
        return tuple(k) if isinstance(k, list) else k

    return {(token(a), token(b)): v for (a, b), v in values}


def assert_same(got: dict, want: dict) -> None:
    assert got.keys() == want.keys()
    for key, values in want.items():
        assert got[key] == pytest.approx(values, abs=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_all_genes_one_dictionary_per_cell_in_processing_order(kind, generation, bundles, tmp_path):
    name = f"{kind}_all_{LEVEL[generation]}_and_gene"
    run = screened(generation, name, bundles, tmp_path / "run")
    labels = {"shifted_labels": True} if kind == "overexpress" else {}
    files = export(run.path, tmp_path / "out", prefix="x", **labels)
    cells = sorted((f for f in files if "_dict_cell_embs_" in f.name), key=number)
    genes = sorted((f for f in files if "_dict_gene_embs_" in f.name), key=number)
    assert [f.name for f in cells] == [f"in_silico_{kind}_x_dict_cell_embs_{i}batch-1_raw.pickle" for i in range(12)]
    assert len(files) == len(cells) + len(genes)
    assert_same(merged(cells), golden(CASES[generation][name]["cell"]))
    assert_same(merged(genes), golden(CASES[generation][name]["gene"]))


def test_gene_values_of_an_overexpression_are_filed_under_their_own_gene(bundles, tmp_path):
    run = screened("v2", "overexpress_all_cls_and_gene", bundles, tmp_path / "run", max_cells=1)
    (file,) = (f for f in export(run.path, tmp_path / "out") if "gene_embs" in f.name)
    ids = run.sql("SELECT length FROM cells")["length"][0].as_py()
    found = pickle.loads(file.read_bytes())
    first = dict(reversed(found))
    assert len(set(first.values())) == 1  # the top gene, never moved, comes first under every other
    assert len(found) == (ids - 3) * (ids - 3)


JOINT = [
    *((g, f"delete_list1_{LEVEL[g]}_and_gene") for g in ("v1", "v2")),
    *((g, name) for g in ("v1", "v2") for name in ("delete_list3", "delete_list1_goal")),
    ("v2", "overexpress_list3"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("generation", "name"), JOINT)
def test_a_joint_perturbation_is_one_dictionary(generation, name, bundles, tmp_path):
    case = CASES[generation][name]
    run = screened(generation, name, bundles, tmp_path / "run")
    files = export(run.path, tmp_path / "out", prefix="x")
    bundle = Bundle.open(bundles[generation])
    tokens = [bundle.vocabulary.token_of(g) for g in case["arguments"]["genes_to_perturb"]]
    kind = case["arguments"]["perturb_type"]
    parts = ["cell", "gene"] if "and_gene" in name else ["cell"]
    assert [f.name for f in files] == [f"in_silico_{kind}_x_{p}_embs_dict_{tokens}_raw.pickle" for p in parts]
    contents = pickle.loads(files[0].read_bytes())
    if "goal" in name:
        assert list(contents) == ["dcm", "nf", "hcm"]
        want: dict = {}
        for (state, (tokens, what)), values in case["cell"]:
            want.setdefault(state, {})[tokens, what] = values
        for state in want:
            assert_same(contents[state], want[state])
    else:
        assert_same(contents, golden(case["cell"]))
    if len(files) > 1:
        assert_same(pickle.loads(files[1].read_bytes()), golden(case["gene"]))


@pytest.mark.slow
def test_states_lie_above_the_keys(generation, bundles, tmp_path):
    run = screened(generation, "delete_all_goal", bundles, tmp_path / "run")
    found: dict = {}
    for file in sorted(export(run.path, tmp_path / "out"), key=number):
        for state, values in pickle.loads(file.read_bytes()).items():
            for key, value in values.items():
                found.setdefault((state, *key), []).extend(value)
    want = {(s, *key): values for (s, key), values in CASES[generation]["delete_all_goal"]["cell"]}
    assert_same(found, want)


@pytest.mark.slow
def test_pairs_with_an_anchor_have_the_joint_value_and_beside_it_the_triple(generation, bundles, tmp_path):
    run = screened(generation, "delete_anchor", bundles, tmp_path / "run")
    files = sorted(export(run.path, tmp_path / "out"), key=number)
    raw = [f for f in files if f.name.endswith("_raw.pickle")]
    triples = [f for f in files if f.name.endswith("_triples.pickle")]
    assert len(raw) == len(triples) == len(files) / 2
    assert all(type(v) is float for v in pickle.loads(raw[0].read_bytes()).values())
    both = merged(raw)
    assert_same(both, golden(CASES[generation]["delete_anchor"]["cell"]))
    alone = merged(triples)
    assert {key: [t[2] for t in values] for key, values in alone.items()} == both
    anchor = {t[0] for t in pickle.loads(triples[0].read_bytes()).values() for t in t}
    assert len(anchor) == 1  # of one cell the anchor alone is one number


def test_a_cell_without_a_gene_to_compare_has_nan(bundles, tmp_path):
    """Overexpressing a cell's only gene leaves none that was not perturbed."""
    cells = Cells.read(GOLDEN / "v1/cells.parquet", Bundle.open(bundles["v1"]))
    ids = cells.ids_of(0)[:5]
    gene = Bundle.open(bundles["v1"]).vocabulary.gene_of[ids[0]]
    two = replace(cells, ids=np.append(ids, ids[0]), offsets=np.array([0, 5, 6]), obs=cells.obs.slice(0, 2))
    two.write(tmp_path / "cells.parquet")
    options = {"perturb": "overexpress", "genes": [gene], "how": "together", "dtype": "float32"}
    run = screen(tmp_path / "cells.parquet", bundles["v1"], tmp_path / "run", **options)
    (file,) = export(run.path, tmp_path / "out")
    ((key, found),) = pickle.loads(file.read_bytes()).items()
    assert key == (int(ids[0]), "cell_emb")
    assert found[0] == pytest.approx(1, abs=1e-6)
    assert np.isnan(found[1])


def test_pickles_hold_plain_values_only(bundles, tmp_path):
    run = screened("v1", "delete_list1_cell_and_gene", bundles, tmp_path / "run")
    for file in export(run.path, tmp_path / "out"):
        assert "GLOBAL" not in {op.name.removeprefix("STACK_") for op, _, _ in pickletools.genops(file.read_bytes())}
        for (perturbed, affected), values in pickle.loads(file.read_bytes()).items():
            assert type(perturbed) is int
            assert type(affected) in (int, str)
            assert {type(v) for v in values} == {float}


def test_long_gene_lists_get_a_hash_for_a_name():
    short, long = joint_name("in_silico_delete_x", "cell", range(5)), joint_name("x", "gene", range(10000, 10100))
    assert short == "in_silico_delete_x_cell_embs_dict_[0, 1, 2, 3, 4]_raw.pickle"
    assert len(long.encode()) <= NAME_BYTES
    assert re.fullmatch(r"x_gene_embs_dict_100_genes_[0-9a-f]{12}_raw\.pickle", long)
    assert long != joint_name("x", "gene", range(10001, 10101))


def test_a_failing_export_leaves_nothing(tmp_path):
    def contents():
        yield "a_raw.pickle", {1: 2}
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_folder(contents(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_writes_a_folder_and_refuses_one_that_is_not_empty(bundles, tmp_path, capsys):
    run = screened("v1", "delete_all_cell_layer-1", bundles, tmp_path / "run", max_cells=2, gene_shifts=True)
    command = ["export", str(run.path), "--format", "reference", "--out", str(tmp_path / "out")]
    assert run_command(command) == 0
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        f"in_silico_delete_run_dict_cell_embs_{i}batch-1_raw.pickle" for i in range(2)
    ]
    assert "screen with --per-cell" in capsys.readouterr().err
    assert run_command(command) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert run_command([*command[:-1], str(tmp_path / "other"), "--format", "pdf"]) == 2
    assert run_command([*command[:-1], str(tmp_path / "other"), "--prefix", "a/b"]) == 2
    assert not (tmp_path / "other").exists()


def test_an_unfinished_run_is_refused(bundles, tmp_path):
    run = screened("v1", "delete_all_cell_layer-1", bundles, tmp_path / "run", max_cells=3)
    marker = next((run.path / "commits").iterdir())
    marker.unlink()
    with pytest.raises(InputError, match="finish the screen with --resume"):
        export(run.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
