"""Screens in process: every golden case, the cases where the reference crashed, and what a run folder promises."""

import gzip
import itertools
import json
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertForMaskedLM

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import count
from rankshift.screen.errors import InputError
from rankshift.screen.notebook import run
from rankshift.screen.runs.run import Run
from support import GOLDEN

CASES = {
    (generation, name): case
    for generation in ("v1", "v2")
    for name, case in json.loads(gzip.decompress((GOLDEN / generation / "shifts.json.gz").read_bytes())).items()
}
EQUAL = [key for key, case in CASES.items() if not case["reference_failed"]]
WITH_GENES = [key for key in EQUAL if "gene" in CASES[key]]
CRASHED = [key for key, case in CASES.items() if case["reference_failed"] and "anchor" not in key[1]]


def options_of(generation: str, case: dict) -> dict:
    a = case["arguments"]
    genes = a["genes_to_perturb"]
    options = {
        "perturb": a["perturb_type"],
        "layer": a["emb_layer"],
        "embedding": a["emb_mode"].split("_")[0],
        "genes": genes,
        "how": "each" if genes == "all" else "together",
        "max_cells": a.get("max_ncells"),
        "dtype": "float32",
    }
    if a.get("anchor_gene"):
        options |= {"how": "pairs", "anchor": a["anchor_gene"]}
    if states := a.get("cell_states_to_model"):
        options |= {
            "states": GOLDEN / generation / "state_embeddings.json",
            "state_key": states["state_key"],
            "start": states["start_state"],
            "goal": states["goal_state"],
            "alt": states["alt_states"],
        }
    return options


def golden_values(case: dict, gene_of: list[str], anchor: str | None = None) -> dict[tuple[str, str], list[float]]:
    """Sorted values by (column, genes)."""
    out = defaultdict(list)
    for key, values in case["cell"]:
        column = "similarity"
        if isinstance(key[1], list):
            column, key = f"shift_{key[0]}", key[1]
        tokens = key[0] if isinstance(key[0], list) else [key[0]]
        names = ([] if anchor is None else [anchor]) + [gene_of[t] for t in tokens]
        out[column, "+".join(names)] += values
    return {k: sorted(v) for k, v in out.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("generation", "name"), EQUAL)
def test_golden_case(generation, name, bundles, tmp_path):
    case = CASES[generation, name]
    options = options_of(generation, case)
    result = run(
        GOLDEN / generation / "cells.parquet", bundles[generation], tmp_path / "run", reference_overflow=True, **options
    )
    expected = golden_values(case, Bundle.open(bundles[generation]).vocabulary.gene_of, options.get("anchor"))
    columns = sorted({column for column, _ in expected})
    rows = result.sql(f"SELECT gene_ids, {', '.join(columns)} FROM shifts").to_pylist()
    found = defaultdict(list)
    for row in rows:
        for column in columns:
            found[column, row["gene_ids"]].append(row[column])
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert sorted(found[key]) == pytest.approx(values, abs=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize(("generation", "name"), WITH_GENES)
def test_golden_gene_values(generation, name, bundles, tmp_path):
    """How near every other gene stayed. The reference's labels are shifted under overexpression of all (PS B1): there the
    values of a perturbed gene are compared as a whole, but for the last one, which it loses."""
    case = CASES[generation, name]
    shown = run(
        GOLDEN / generation / "cells.parquet",
        bundles[generation],
        tmp_path / "run",
        reference_overflow=True,
        gene_shifts=True,
        per_cell=True,
        **options_of(generation, case),
    )
    gene_of = Bundle.open(bundles[generation]).vocabulary.gene_of
    found = defaultdict(list)
    for row in shown.sql("SELECT gene_ids, affected_gene, sum AS cosine FROM genes").to_pylist():
        found[row["gene_ids"], row["affected_gene"]].append(row["cosine"])
    expected = defaultdict(list)
    for (tokens, affected), values in case["gene"]:
        perturbed = "+".join(gene_of[t] for t in (tokens if isinstance(tokens, list) else [tokens]))
        expected[perturbed, gene_of[affected]] += values
    if case["arguments"]["perturb_type"] == "overexpress" and case["arguments"]["genes_to_perturb"] == "all":
        for values in (expected, found):
            whole = defaultdict(list)
            for (perturbed, _), some in values.items():
                whole[perturbed] += some
            values.clear()
            values.update(whole)
        for perturbed, values in expected.items():
            ours = np.array(sorted(found[perturbed]))
            near = [np.abs(ours - value).min() for value in values]
            assert max(near) < 1e-5, perturbed
        return
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert sorted(found[key]) == pytest.approx(sorted(values), abs=1e-5), key


@pytest.mark.slow
def test_effects_add_up_what_single_cells_say(bundles, tmp_path):
    where = (GOLDEN / "v2/cells.parquet", bundles["v2"])
    options = {"perturb": "delete", "gene_shifts": True, "shard_tokens": 3000}
    summed = run(*where, tmp_path / "summed", **options)
    single = run(*where, tmp_path / "single", per_cell=True, **options)
    query = (
        "SELECT gene_ids, affected_gene, count(*) AS n, avg(sum) AS mean, stddev_pop(sum) AS sd, min(min) AS low "
        "FROM genes GROUP BY ALL ORDER BY ALL"
    )
    expected = single.sql(query).to_pydict()
    found = summed.sql(
        "SELECT gene_ids, affected_gene, n, cosine_mean, cosine_sd, cosine_min FROM effects ORDER BY gene_ids, affected_gene"
    ).to_pydict()
    assert found["gene_ids"] == expected["gene_ids"]
    assert found["n"] == expected["n"]
    for ours, plain in (("cosine_mean", "mean"), ("cosine_min", "low")):
        assert found[ours] == pytest.approx(expected[plain], abs=1e-9)
    assert found["cosine_sd"] == pytest.approx(expected["sd"], abs=1e-7)


@pytest.mark.slow
def test_effects_are_kept_apart_by_a_column(bundles, tmp_path):
    apart = run(
        GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "run", perturb="delete", gene_shifts=True, by="disease"
    )
    rows = apart.sql("SELECT cells, sum(n) AS n FROM effects GROUP BY 1 ORDER BY 1").to_pylist()
    lengths = apart.sql(
        "SELECT disease AS cells, sum(length * (length - 1)) AS n FROM cells GROUP BY 1 ORDER BY 1"
    ).to_pylist()
    assert [(r["cells"], int(r["n"])) for r in rows] == [(r["cells"], int(r["n"])) for r in lengths]


@pytest.mark.slow
def test_pairs_hold_their_genes_alone_and_the_interaction(bundles, tmp_path):
    bundle = Bundle.open(bundles["v1"])
    cells = Cells.read(GOLDEN / "v1/cells.parquet", bundle)
    genes = [bundle.vocabulary.gene_of[t] for t in cells.ids_of(0)[[3, 9, 20]]]
    for kind in ("delete", "overexpress"):
        where = {"states": GOLDEN / "v1/state_embeddings.json", "perturb": kind, "genes": genes}
        each = run(GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / f"{kind}-each", how="each", **where)
        pairs = run(GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / f"{kind}-pairs", how="pairs", **where)
        alone = {
            (r["cell_id"], r["gene_ids"]): (r["similarity"], r["shift_nf"])
            for r in each.sql("SELECT cell_id, gene_ids, similarity, shift_nf FROM shifts").to_pylist()
        }
        rows = pairs.sql("FROM shifts").to_pylist()
        assert {r["gene_ids"] for r in rows} <= {f"{a}+{b}" for a, b in itertools.combinations(genes, 2)}
        assert rows
        for r in rows:
            first, second = (alone[r["cell_id"], g] for g in r["gene_ids"].split("+"))
            assert (r["similarity_first"], r["shift_nf_first"]) == pytest.approx(first, abs=1e-6)
            assert (r["similarity_second"], r["shift_nf_second"]) == pytest.approx(second, abs=1e-6)
            assert r["similarity_interaction"] == pytest.approx(r["similarity"] - (first[0] + second[0] - 1), abs=1e-6)
            assert r["shift_nf_interaction"] == pytest.approx(r["shift_nf"] - first[1] - second[1], abs=1e-6)


@torch.no_grad()
def plainly(model: BertForMaskedLM, cell: list[int], genes: list[int], layer: int, limit: int) -> float:
    """Similarity of a plain cell under overexpression, one list at a time, rows matched by token (PS 3.5)."""
    perturbed = (genes + [t for t in cell if t not in genes])[:limit]
    original = cell[: len(cell) - max(0, len(cell) + sum(g not in cell for g in genes) - limit)]

    def hidden(ids):
        return model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[layer - 1][0]

    after, before = hidden(perturbed), hidden(original)
    pairs = [(i, original.index(t)) for i, t in enumerate(perturbed) if t in original and t not in genes]
    cosines = [torch.cosine_similarity(after[i], before[j], dim=0).item() for i, j in pairs]
    return float(np.mean(cosines))


@pytest.mark.slow
@pytest.mark.parametrize(("generation", "name"), CRASHED)
def test_where_the_reference_crashed_the_value_is_that_of_one_cell_at_a_time(generation, name, bundles, tmp_path):
    options = options_of(generation, CASES[generation, name])
    result = run(GOLDEN / generation / "cells.parquet", bundles[generation], tmp_path / "run", **options)
    bundle = Bundle.open(bundles[generation])
    cells = Cells.read(GOLDEN / generation / "cells.parquet", bundle)
    model = BertForMaskedLM.from_pretrained(GOLDEN / generation / "model").eval()
    tokens = [bundle.vocabulary.token_of(g) for g in options["genes"]]
    rows = result.sql("SELECT cell_id, similarity FROM shifts").to_pylist()
    assert len(rows) == len(cells)
    names = cells.obs["cell_id"].to_pylist()
    for row in rows:
        cell = cells.ids_of(names.index(row["cell_id"])).tolist()
        assert row["similarity"] == pytest.approx(
            plainly(model, cell, tokens, options["layer"], bundle.input_size), abs=1e-5
        )


def test_cells_of_a_run_are_in_processing_order(bundles, tmp_path):
    result = run(GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "run", perturb="delete", max_cells=5)
    lengths = result.sql("SELECT length FROM cells ORDER BY cell")["length"].to_pylist()
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) == 5


def test_each_of_a_list_runs_absent_genes_only_for_overexpression(bundles, tmp_path):
    cells = Cells.read(GOLDEN / "v1/cells.parquet", Bundle.open(bundles["v1"]))
    gene = Bundle.open(bundles["v1"]).vocabulary.gene_of
    wanted = [40, 41, 42]
    have = sum(int(t in cells.ids_of(i)) for i in range(len(cells)) for t in wanted)
    for kind, rows in (("delete", have), ("overexpress", 3 * len(cells))):
        result = run(
            GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / kind, perturb=kind, genes=[gene[t] for t in wanted]
        )
        assert result.sql("SELECT count(*) AS n FROM shifts")["n"].to_pylist() == [rows]


def test_state_vectors_are_computed_when_no_file_gives_them(bundles, tmp_path):
    route = {"state_key": "disease", "start": "dcm", "goal": "nf", "alt": ["hcm"]}
    result = run(GOLDEN / "v2/cells.parquet", bundles["v2"], tmp_path / "run", perturb="delete", genes="all", **route)
    assert result.states == ["dcm", "nf", "hcm"]
    row = result.sql("SELECT max(abs(shift_nf)) AS far, min(cos_before_dcm) AS near FROM shifts").to_pylist()[0]
    assert 0 < row["far"] < 2
    assert -1 <= row["near"] <= 1


@pytest.mark.slow
def test_a_resumed_run_computes_only_what_is_missing_and_nothing_twice(bundles, tmp_path):
    where = (GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "run")
    whole = run(*where, perturb="delete", shard_tokens=4000).sql("FROM shifts ORDER BY cell, perturbation")
    markers = sorted((tmp_path / "run/commits").iterdir())
    kept = {m.name: m.stat().st_mtime_ns for m in markers[1:]}
    markers[0].unlink()
    assert Run.open(tmp_path / "run").sql("SELECT count(*) AS n FROM shifts")["n"][0].as_py() < whole.num_rows
    rows = []
    again = run(*where, perturb="delete", shard_tokens=4000, resume=True, done=rows.append)
    assert again.sql("FROM shifts ORDER BY cell, perturbation").equals(whole)
    assert {m.name: m.stat().st_mtime_ns for m in (tmp_path / "run/commits").iterdir() if m.name in kept} == kept
    assert sum(rows) == json.loads(markers[0].read_text())["rows"]


def test_what_a_dead_writer_left_is_not_read(bundles, tmp_path):
    result = run(GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "run", perturb="delete", max_cells=2)
    rows = result.sql("SELECT count(*) AS n FROM shifts")["n"][0].as_py()
    shifts = tmp_path / "run/shifts"
    (shifts / ".shard-000001.parquet.0a1b2c3d.tmp").write_bytes(b"PAR1 torn")
    (shifts / "shard-000009.parquet").write_bytes(b"written, never committed")
    assert Run.open(tmp_path / "run").sql("SELECT count(*) AS n FROM shifts")["n"][0].as_py() == rows


def test_obs_columns_never_hide_measures(bundles, tmp_path):
    table = pq.read_table(GOLDEN / "v1/cells.parquet")
    pq.write_table(table.append_column("similarity", table["cell_id"]), tmp_path / "cells.parquet")
    result = run(tmp_path / "cells.parquet", bundles["v1"], tmp_path / "run", perturb="delete", max_cells=2)
    row = result.sql("SELECT similarity, obs_similarity, cell_id FROM shifts LIMIT 1").to_pylist()[0]
    assert row["obs_similarity"] == row["cell_id"]
    assert 0 < row["similarity"] < 1


REFUSED = [
    ({"genes": ["ENSG0", "ENSG1"]}, "none of the 2 genes is in the vocabulary"),
    ({"embedding": "cls"}, "cells have no <cls>"),
    ({"embedding": "gene"}, "embedding 'gene' is unknown"),
    ({"layer": 2}, "layer 2 is not measured"),
    ({"max_cells": 0}, "max_cells is 0, at least 1 is needed"),
    ({"state_key": "disease"}, "--state-key, --start and --goal belong together"),
    ({"state_key": "disease", "start": "nf", "goal": "nf"}, "state 'nf' is named twice"),
    ({"state_key": "disease", "start": "healthy", "goal": "nf"}, "the states are"),
    ({"state_key": "illness", "start": "dcm", "goal": "nf"}, "'illness' is not a column"),
    ({"how": "together"}, "together needs a list of genes"),
    ({"dtype": "int4"}, "dtype 'int4' is unknown"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(options, message, bundles, tmp_path):
    with pytest.raises(InputError, match=message) as refused:
        run(GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "run", **{"perturb": "delete", **options})
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_states_of_the_wrong_width_and_unknown_states_are_refused(bundles, tmp_path):
    states = tmp_path / "states.json"
    states.write_text(json.dumps({"dcm": [0.0] * 5, "nf": [0.0] * 32}))
    route = {"perturb": "delete", "states": states, "state_key": "disease", "start": "dcm"}
    with pytest.raises(InputError, match="state 'dcm' has 5 dimensions, the model 32"):
        run(GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "run", goal="nf", **route)
    with pytest.raises(InputError, match=r"state 'hcm' is not in .*, which has 'dcm', 'nf'"):
        run(GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "run", goal="hcm", **route)


def test_an_existing_run_is_never_replaced_and_resumes_only_as_itself(bundles, tmp_path):
    where = (GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "run")
    run(*where, perturb="delete", max_cells=2)
    with pytest.raises(InputError, match="exists: continue it with --resume"):
        run(*where, perturb="delete", max_cells=2)
    with pytest.raises(InputError, match="was prepared with perturb"):
        run(*where, perturb="overexpress", max_cells=2, resume=True)
    with pytest.raises(InputError, match="was prepared with"):
        run(*where, perturb="delete", max_cells=3, resume=True)


def test_a_dry_run_writes_nothing(bundles, tmp_path):
    bundle = Bundle.open(bundles["v1"])
    planned = count(GOLDEN / "v1/cells.parquet", bundle, Options(perturb="delete"))
    assert planned.lists == 551
    assert planned.flops > 0
    assert list(tmp_path.iterdir()) == []


def test_a_query_changes_nothing(bundles, tmp_path):
    result = run(GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "run", perturb="delete", max_cells=1)
    for statement in ("DROP VIEW shifts", f"COPY shifts TO '{tmp_path}/x.csv'", "SELECT 1; SELECT 2", "selec"):
        with pytest.raises(InputError):
            result.sql(statement)
    assert not (tmp_path / "x.csv").exists()


def test_cells_of_one_gene_are_reported_and_leave_no_nan(bundles, tmp_path):
    table = pq.read_table(GOLDEN / "v1/cells.parquet").slice(0, 3)
    ids = [[40], [40, 41], table["input_ids"][2].as_py()]
    table = table.set_column(table.column_names.index("input_ids"), "input_ids", pa.array(ids, pa.list_(pa.int32())))
    table = table.set_column(table.column_names.index("length"), "length", pa.array([len(x) for x in ids]))
    pq.write_table(table, tmp_path / "cells.parquet")
    bundle = Bundle.open(bundles["v1"])
    said = []
    count(tmp_path / "cells.parquet", bundle, Options(perturb="delete"), say=said.append)
    assert "1 of 3 cells have nothing to delete and get no row" in said
    gene = bundle.vocabulary.gene_of[40]
    done = run(tmp_path / "cells.parquet", bundles["v1"], tmp_path / "run", perturb="overexpress", genes=[gene])
    rows = done.sql("SELECT length, similarity FROM shifts ORDER BY length")["similarity"].to_pylist()
    assert rows[0] is None  # the one gene is the perturbed one: nothing to compare
    assert 0 < rows[1] <= 1 + 1e-6
    assert done.sql("SELECT count(*) AS n FROM shifts WHERE isnan(similarity)")["n"].to_pylist() == [0]
