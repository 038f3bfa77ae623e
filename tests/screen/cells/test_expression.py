"""Baselines from rank lists alone: scores by hand, correlations against numpy, and what a screen keeps of them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.expression import scores, state_scores
from rankshift.screen.engine.screener import run as screen
from rankshift.screen.genes.framing import Frame
from rankshift.screen.runs.layout import EXPRESSION
from rankshift.screen.runs.run import Run
from rankshift.screen.stats import statistics
from rankshift.screen.stats.measures import MEASURES
from support import GOLDEN

ROUTE = {"state_key": "disease", "start": "dcm", "goal": "nf"}


def score_table(lists: list[list[int]], framed: bool) -> np.ndarray:
    """Cells by tokens, one loop after the other."""
    out = np.zeros((len(lists), 1000))
    for row, tokens in zip(out, lists, strict=True):
        genes = tokens[1:-1] if framed else tokens
        for place, token in enumerate(genes):
            row[token] = 1 - place / len(genes)
    return out


def test_scores_fall_from_one_and_specials_have_none():
    cell, token, score = scores(np.array([2, 9, 7, 5, 8, 3, 2, 6, 3]), np.array([6, 3]), Frame(head=1, tail=1))
    assert cell.tolist() == [0, 0, 0, 0, 1]
    assert token.tolist() == [9, 7, 5, 8, 6]
    assert score.tolist() == [1, 0.75, 0.5, 0.25, 1]


@pytest.fixture(scope="module")
def runs(bundles, tmp_path_factory) -> dict[str, Run]:
    """Deletions in the golden cells of both generations, from one disease towards another."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: screen(GOLDEN / name / "cells.parquet", bundles[name], folder / name, perturb="delete", **ROUTE)
        for name in ("v1", "v2")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v1", "v2"])
def test_state_scores_are_those_of_the_token_table(name, runs, bundles):
    cells = Cells.read(GOLDEN / name / "cells.parquet", Bundle.open(bundles[name]))
    lists = [part.tolist() for part in np.split(cells.ids, cells.offsets[1:-1])]
    disease = np.array(cells.obs["disease"].to_pylist())
    table = score_table(lists, bool(cells.frame.size))
    kept = pq.read_table(runs[name].path / EXPRESSION).to_pandas().set_index("token")
    assert set(kept.index) == set(np.flatnonzero(table[np.isin(disease, ["dcm", "nf"])].sum(0)))
    both = np.isin(disease, ["dcm", "nf"])
    for token, row in kept.iterrows():
        assert row.start_score == pytest.approx(table[disease == "dcm", token].mean())
        assert row.goal_score == pytest.approx(table[disease == "nf", token].mean())
        plain = np.corrcoef(table[both, token], disease[both] == "nf")[0, 1]
        assert row.state_correlation == pytest.approx(plain, nan_ok=True)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_coexpression_leaves_the_gene_itself_out(name, runs):
    run = runs[name]
    framed = bool(run.manifest.perturb.frame.size)
    table = score_table(pq.read_table(run.path / "cells.parquet")["input_ids"].to_pylist(), framed)
    kept = pq.read_table(run.path / EXPRESSION).to_pandas().set_index("token")
    weight = np.zeros(table.shape[1])
    weight[kept.index] = kept.goal_score - kept.start_score
    found = statistics(run, "goal").table().to_pandas().set_index("gene_ids")
    token_of = {
        row["gene_ids"]: row["tokens"][0] for row in pq.read_table(run.path / "perturbations.parquet").to_pylist()
    }
    checked = 0
    for gene, row in found.iterrows():
        token = token_of[gene]
        assert row.baseline_state_correlation == pytest.approx(kept.state_correlation.get(token, np.nan), nan_ok=True)
        others = weight.copy()
        others[token] = 0
        if np.ptp(table[:, token]) > 0:
            plain = np.corrcoef(table[:, token], table @ others)[0, 1]
            assert row.baseline_coexpression == pytest.approx(plain, abs=1e-7), gene
            checked += 1
        else:
            assert np.isnan(row.baseline_coexpression)
    assert checked > 10


def test_where_the_table_has_one_state_there_is_no_baseline(bundles, tmp_path):
    cells = Cells.read(GOLDEN / "v1/cells.parquet", Bundle.open(bundles["v1"]))
    assert state_scores(cells, 1000, state_key="disease", start="dcm", goal="moon") is None
    starts = np.flatnonzero(np.array(cells.obs["disease"].to_pylist()) == "dcm")
    cells.take(starts).write(tmp_path / "cells.parquet")
    run = screen(tmp_path / "cells.parquet", bundles["v1"], tmp_path / "run", perturb="delete",
                 states=GOLDEN / "v1/state_embeddings.json", **ROUTE)  # fmt: skip
    assert not (run.path / EXPRESSION).exists()
    columns = statistics(run, "goal").table().column_names
    assert "baseline_coexpression" not in columns
    assert "baseline_rank" in columns


def test_units_are_told(runs):
    table = statistics(runs["v1"], "goal").table()
    units = {column.name: column.unit for measure in MEASURES for column in measure.columns}
    for name in ("baseline_state_correlation", "baseline_coexpression"):
        assert table.schema.field(name).metadata[b"unit"] == b"correlation" == units[name].encode()
        assert pa.types.is_floating(table.schema.field(name).type)
