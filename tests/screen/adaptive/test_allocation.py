"""Which rows are measured, and what is said of the rest, on drawn tables whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from drawn_tables import Regime, Table, draw, played

from rankshift.screen.adaptive.allocation import Verdict, Wanted, passes, pilot_passes, preparation, rounds
from rankshift.screen.adaptive.population import sorted_rows
from rankshift.screen.adaptive.strata import audited
from rankshift.screen.errors import InputError

SMALL = Regime(genes=1500, cells=150, per_cell=250, cell=0.6, trend=0.25, known=0.9)
FULL = SMALL.cells * (SMALL.per_cell + 1)
TOP = 30


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    return [draw(SMALL, seed, min_cells=5) for seed in range(3)]


def strongest(values: np.ndarray, top: int = TOP) -> set[int]:
    return set(np.argsort(-values, kind="stable")[:top].tolist())


def recall(table: Table, verdict: Verdict) -> float:
    return len(set(verdict.top.tolist()) & strongest(table.means)) / TOP


@pytest.mark.slow
def test_the_full_screens_top_for_a_part_of_its_passes(tables):
    found = [played(t.population, t.values, Wanted(top=TOP, seed=seed)) for seed in range(3) for t in tables]
    verdicts = [verdict for _, verdict in found]
    recalls = [recall(t, v) for v, t in zip(verdicts, tables * 3, strict=True)]
    assert np.mean(recalls) >= 0.97
    assert min(recalls) >= 0.9
    assert np.mean([v.passes for v in verdicts]) < 0.2 * FULL
    missed = TOP * (1 - np.mean(recalls))
    assert missed <= np.mean([v.missed for v in verdicts]) + 0.3
    # The prediction has trends of its own, which six genes a cell cannot tell from those of the values.
    assert 0.7 < np.mean([v.explained for v in verdicts]) < 0.93


@pytest.mark.slow
def test_finished_genes_have_the_full_screens_means_and_intervals_of_the_others_cover(tables):
    inside, near = [], []
    for seed in range(3):
        for table in tables:
            _, verdict = played(table.population, table.values, Wanted(top=TOP, seed=seed))
            done = verdict.finished
            np.testing.assert_allclose(verdict.estimate[done], table.means[done], rtol=0, atol=1e-12)
            assert (verdict.half[done] == 0).all()
            assert (verdict.half[~done] > 0).all()
            order = np.argsort(-verdict.estimate[done])
            assert verdict.top.tolist() == np.flatnonzero(done)[order][:TOP].tolist()
            covered = np.abs(verdict.estimate - table.means) <= verdict.half
            inside.append(covered[~done].mean())
            near.append(covered[~done & (verdict.estimate >= np.sort(verdict.estimate)[-4 * TOP])].mean())
    assert np.mean(inside) >= 0.93
    assert np.mean(near) >= 0.9


def test_the_audited_genes_are_finished_whatever_they_are(tables):
    of = tables[0].population
    _, verdict = played(of, tables[0].values, Wanted(top=TOP))
    assert verdict.finished[audited(of, seed=0)].all()
    assert audited(of, seed=0).sum() == of.genes // 50 == 21


@pytest.mark.slow
def test_a_wrong_prediction_costs_passes_and_not_truth(tables):
    rng = np.random.default_rng(0)
    good, bad, none = [], [], []
    for table in tables:
        of = table.population
        for out, predicted in ((good, of.predicted), (bad, rng.permutation(of.predicted)), (none, None)):
            out.append((table, played(of.with_prediction(predicted), table.values, Wanted(top=TOP))[1]))
    for out in (bad, none):
        assert np.mean([recall(*one) for one in out]) >= 0.95
    assert np.mean([v.passes for _, v in bad]) > np.mean([v.passes for _, v in good])
    assert max(v.explained for _, v in bad) < 0.05
    assert all(np.isnan(v.explained) for _, v in none)


@pytest.mark.slow
def test_the_order_of_rows_changes_nothing(tables):
    table = tables[1]
    of = table.population
    mixed = np.random.default_rng(1).permutation(len(of))
    by_row = {name: getattr(of, name)[mixed] for name in ("cell", "gene", "rank", "absent", "predicted")}
    again, order = sorted_rows({**by_row, **{n: getattr(of, n) for n in ("cell_key", "gene_key", "stratum")}})
    assert played(again, table.values[mixed][order], Wanted(top=TOP))[0] == played(of, table.values, Wanted(top=TOP))[0]
    with pytest.raises(ValueError, match="sorted"):
        replace(of, cell=of.cell[mixed], gene=of.gene[mixed])


@pytest.mark.slow
def test_rounds_depend_on_the_seed_and_measure_no_row_twice(tables):
    table = tables[2]
    first, verdict = played(table.population, table.values, Wanted(top=TOP, seed=4))
    assert played(table.population, table.values, Wanted(top=TOP, seed=4))[0] == first
    assert played(table.population, table.values, Wanted(top=TOP, seed=5))[0] != first
    rows = np.concatenate([rows for _, rows in first])
    assert len(np.unique(rows)) == len(rows) == verdict.seen.sum()
    spent = sum(passes(table.population, np.array(rows)) for _, rows in first)
    assert verdict.passes == spent + preparation(table.population)
    assert [kind for kind, _ in first if kind != "pilot"] == ["audit", *["block"] * 4]


@pytest.mark.slow
def test_the_lowest_are_found_alike(tables):
    table = tables[0]
    upside, verdict = played(table.population, -table.values, Wanted(top=TOP, highest=False))
    down = table.population.with_prediction(-table.population.predicted)
    plain, mirror = played(table.population, table.values, Wanted(top=TOP))
    assert upside == plain
    assert verdict.top.tolist() == mirror.top.tolist()
    np.testing.assert_array_equal(verdict.estimate, -mirror.estimate)
    assert recall(table, played(down, -table.values, Wanted(top=TOP, highest=False))[1]) >= 0.9


@pytest.mark.slow
def test_a_budget_is_not_exceeded_and_what_is_missing_is_said(tables):
    table = tables[0]
    whole, free = played(table.population, table.values, Wanted(top=TOP))
    least = pilot_passes(table.population, 0)
    for budget in (least, (least + free.passes) // 2, free.passes):
        some, verdict = played(table.population, table.values, Wanted(top=TOP), budget)
        assert verdict.passes <= budget
        assert some == whole[: len(some)]
        assert verdict.complete == (budget == free.passes)
        missing = len(strongest(table.means) - set(np.flatnonzero(verdict.finished).tolist()))
        assert verdict.missed == pytest.approx(missing, abs=max(3, 0.25 * missing))
    with pytest.raises(InputError, match=f"--budget is {least - 1:,} passes, the pilot alone takes {least:,}"):
        next(rounds(table.population, Wanted(top=TOP), least - 1))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"top": 0}, "--top is 0"),
        ({"top": 5, "confidence": 0.4}, "--confidence is 0.4, it lies between 0.5 and 0.999"),
        ({"top": 5, "confidence": 1.0}, "--confidence is 1"),
        ({"top": 5, "seed": -1}, "--seed is -1"),
    ],
)
def test_bad_input(given, match):
    with pytest.raises(InputError, match=match):
        Wanted(**given)


def test_more_genes_than_there_are(tables):
    of = tables[0].population
    with pytest.raises(InputError, match=f"--top is 5000, {of.genes} genes are in enough cells"):
        next(rounds(of, Wanted(top=5000)))
