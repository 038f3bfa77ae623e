"""Our own columns: what each number is, on drawn runs and small arrays, against the plain computation."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import ttest_1samp

from drawn_runs import Draw, sealed
from rankshift.screen.errors import InputError
from rankshift.screen.runs.manifest import NoiseFloor
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.arithmetic.matched_null import matched_null
from rankshift.screen.stats.arithmetic.resampling import Units, bootstrap, stability
from rankshift.screen.stats.donors import Donors, balanced, difference_in_cell
from rankshift.screen.stats.measures import MEASURES
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.options import StatOptions
from rankshift.screen.stats.ranks_in_cells import NEAREST, adjust, in_cells
from rankshift.screen.stats.statistics import statistics
from support import ROOT


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Run, np.ndarray]:
    draw = Draw(
        cells=300, genes=600, per_cell=120, donors=(0.5, 0.3, 0.2), cell_sd=1e-3, trend=4e-3, shifted=30, effect=3e-3
    )
    return draw.run(tmp_path_factory.mktemp("drawn") / "run")


@pytest.fixture(scope="module")
def seen(drawn) -> Observations:
    return Observations.read(drawn[0], ["shift_goal"])


@pytest.fixture(scope="module")
def effects(drawn):
    return statistics(drawn[0], "goal", judging=StatOptions(by="donor"))


def rows_of(run: Run, sql: str) -> list[tuple]:
    return [tuple(row.values()) for row in run.sql(sql).to_pylist()]


def test_a_row_per_perturbation_with_units(drawn, tmp_path):
    run, _ = drawn
    result = statistics(run, "goal", judging=StatOptions(by="donor"))
    result.write(tmp_path / "effects.parquet")
    table = pq.read_table(tmp_path / "effects.parquet")
    wanted = rows_of(
        run, "SELECT gene_ids, count(*), avg(CAST(shift_goal AS DOUBLE)) FROM shifts GROUP BY 1 ORDER BY 1"
    )
    got = sorted(zip(*(table[n].to_pylist() for n in ("gene_ids", "cells", "shift_mean")), strict=True))
    assert [g[:2] for g in got] == [w[:2] for w in wanted]
    np.testing.assert_allclose([g[2] for g in got], [w[2] for w in wanted], atol=1e-12)
    for field in table.schema:
        assert field.metadata[b"meaning"]
    assert table.schema.field("shift_low").metadata[b"unit"] == b"cosine"
    summary = json.loads(table.schema.metadata[b"rankshift.statistics"])
    assert (summary["by"], summary["perturbations"]) == ("donor", table.num_rows)
    assert summary["tested"] == sum(c >= 10 for c in table["cells"].to_pylist())


def test_too_few_cells_are_stated_and_not_tested(drawn):
    table = statistics(drawn[0], "goal", judging=StatOptions(min_cells=40, bootstrap=50)).table().to_pandas()
    few = table.cells < 40
    assert 0 < few.sum() < len(table)
    assert (table.enough_cells == ~few).all()
    empty = ["p_value", "fdr", "adjusted_p_value", "matched_p_value", "rank", "rank_low", "rank_high"]
    assert table.loc[few, empty].isna().all(axis=None)
    assert table.loc[~few, empty].notna().all(axis=None)
    assert not table.hit[few].any()
    assert sorted(table["rank"].dropna()) == list(range(1, (~few).sum() + 1))


def test_planted_effects_come_first(drawn, effects):
    _, truth = drawn
    table = statistics(drawn[0], "goal").table().to_pandas()
    planted = table.gene_ids.str[4:].astype(int).map(lambda i: truth[i])
    hits = table[table.hit]
    assert planted[table.hit].mean() >= 0.8
    assert table.hit[planted & table.enough_cells].mean() > 0.9
    assert hits.shift_mean.is_monotonic_decreasing


@pytest.mark.slow
def test_hits_below_the_noise_floor_are_marked(drawn, tmp_path):
    import shutil

    run, _ = drawn
    shutil.copytree(run.path, tmp_path / "run")
    before = statistics(run, "goal", judging=StatOptions(bootstrap=0)).table().to_pandas()
    floor = float(before.shift_mean.abs().median())
    noisy = Run.open(tmp_path / "run").record(
        noise_floor={"shift_goal": NoiseFloor(n=1, median=floor, p99=floor, max=floor)}
    )
    after = statistics(noisy, "goal", judging=StatOptions(bootstrap=0)).table().to_pandas()
    assert (after.below_noise_floor == (after.shift_mean.abs() < floor)).all()
    assert not (after.hit & after.below_noise_floor).any()
    unknown = statistics(noisy.record(noise_floor={}), "goal", judging=StatOptions(bootstrap=0)).table()
    assert unknown["below_noise_floor"].null_count == unknown.num_rows


def test_similarities(drawn):
    run, _ = drawn
    table = statistics(run, "mixture", judging=StatOptions(bootstrap=0)).table().to_pandas()
    assert table.similarity_mean[table.impact].max() < table.similarity_mean[~table.impact].min()
    assert table.similarity_mean[table.hit].is_monotonic_increasing


def test_ranks_in_cells_are_places_in_the_lists(drawn, seen):
    run, _ = drawn
    places = in_cells(run, seen, seen.values["shift_goal"])
    lists = pq.read_table(run.path / "cells.parquet")["input_ids"].to_pylist()
    token = np.array(seen.tokens)[seen.gene]
    for row in range(0, len(seen), 997):
        assert lists[seen.cell[row]][places.rank[row] - 1] == token[row]
    assert places.detected.tolist() == np.bincount(np.concatenate(lists), minlength=602)[seen.tokens].tolist()


def test_adjusting_takes_the_cell_and_the_trend_out(drawn, seen):
    values = seen.values["shift_goal"]
    places = in_cells(drawn[0], seen, values)
    cell, both = places.removed
    assert 0.1 < cell < both < 0.95
    top = places.rank <= 10
    assert values[top].mean() > values.mean() + 2e-3
    assert abs(places.adjusted[top].mean()) < 3e-4


def test_the_local_line_leaves_the_gene_itself_out():
    rng = np.random.default_rng(0)
    cell = np.repeat([0, 1, 3], [40, 1, 3])
    x = np.concatenate([np.log2(np.arange(1, n + 1)) for n in (40, 1, 3)])
    y = rng.normal(size=44)
    centred, residual = adjust(cell, x, y)
    near = np.delete(np.arange(0, 20 + NEAREST + 1), 20)
    near = near[near >= 20 - NEAREST]
    slope, constant = np.polyfit(x[near], y[near], 1)
    assert residual[20] == pytest.approx(y[20] - constant - slope * x[20])
    assert centred[20] == pytest.approx(y[20] - np.delete(y[:40], 20).mean())
    assert np.isnan(residual[40])
    assert residual[41] == pytest.approx(y[41] - y[42:44].mean())  # two others make no line
    changed = y.copy()
    changed[20] += 1
    assert adjust(cell, x, changed)[1][20] == pytest.approx(residual[20] + 1)


def test_groups_count_once(drawn, seen):
    run, _ = drawn
    values = seen.values["shift_goal"]
    groups = Donors.read(run, "donor")
    result = balanced(seen, values, groups)
    apart = difference_in_cell(seen.cell, values, seen.cells)
    cell = int(seen.cell[7])
    others = (seen.cell == cell) & (np.arange(len(seen)) != 7)
    assert apart[7] == pytest.approx(values[7] - values[others].mean(), abs=1e-8)
    gene = int(np.argmax(seen.count))
    mine = seen.gene == gene
    donor = groups.of_cell[seen.cell[mine]]
    raw, means = ([v[mine][donor == d].mean() for d in range(3)] for v in (values.astype(float), apart.astype(float)))
    assert result.mean[gene] == pytest.approx(np.mean(raw))
    assert result.difference[gene] == pytest.approx(np.mean(means))
    p, centre = result.test(seen.count >= 10)
    assert p[gene] == pytest.approx(ttest_1samp(means, centre).pvalue)


def test_bootstrap_resamples_cells_for_all_genes_at_once():
    rng = np.random.default_rng(3)
    table = np.where(rng.random((50, 70)) < 0.5, rng.normal(size=(50, 70)), np.nan)
    units = Units.of_groups(table)
    weights = rng.integers(0, 3, (70, 5)).astype(np.float32)
    total, weight = units.sums(weights)
    np.testing.assert_allclose(total, np.nan_to_num(table) @ weights, atol=1e-4)
    np.testing.assert_allclose(weight, (~np.isnan(table)).astype(float) @ weights, atol=1e-4)
    among = np.arange(50) < 40
    interval = bootstrap(units, among, 400, 0, highest_first=True)
    mean, error = np.nanmean(table, 1), np.nanstd(table, 1) / np.sqrt((~np.isnan(table)).sum(1))
    assert ((interval.low < mean) & (mean < interval.high)).all()
    np.testing.assert_allclose((interval.high - interval.low) / error / 3.92, 1, atol=0.2)
    assert np.isnan(interval.rank_low[40:]).all()
    assert (interval.rank_low[:40] >= 1).all()
    assert (interval.rank_high[:40] <= 40).all()
    again = bootstrap(units, among, 400, 0, highest_first=True)
    np.testing.assert_array_equal(interval.low, again.low)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(4)
    truth = rng.normal(size=2000)
    units = Units(values=csr_matrix((truth[:, None] + rng.normal(size=(2000, 80))).astype(np.float32)))
    interval = bootstrap(units, np.ones(2000, bool), 200, 0, highest_first=True)
    held = ((interval.low < truth) & (truth < interval.high)).mean()
    assert 0.91 < held < 0.97


def test_halves_agree_on_strong_effects_and_not_on_noise():
    rng = np.random.default_rng(5)
    everyone = np.ones(500, bool)
    noise = rng.normal(size=(500, 60))
    strong = stability(Units.of_groups(noise + 5 * rng.normal(size=(500, 1))), everyone, 0, highest_first=True)
    weak = stability(Units.of_groups(noise), everyone, 0, highest_first=True)
    assert strong is not None
    assert weak is not None
    assert strong.rank_correlation > 0.98
    assert strong.top_overlap > 0.9
    assert abs(weak.rank_correlation) < 0.1
    assert weak.top_overlap == pytest.approx(weak.chance, abs=0.1)
    assert stability(Units.of_groups(noise[:, :3]), everyone, 0, highest_first=True) is None


def test_values_that_are_no_numbers_are_left_out_and_counted(tmp_path):
    run, _ = Draw(cells=40, genes=50, per_cell=20).run(tmp_path / "run")
    part = run.path / "shifts" / "shard-000000.parquet"
    table = pq.read_table(part)
    shift = table["shift_goal"].to_numpy().copy()
    shift[[3, 77]] = np.nan
    pq.write_table(table.set_column(table.column_names.index("shift_goal"), "shift_goal", pa.array(shift)), part)
    sealed(run)
    result = statistics(run, "goal")
    assert result.summary["dropped_rows"] == 2
    assert sum(result.table()["cells"].to_pylist()) == 40 * 20 - 2


def test_of_a_gene_twice_in_a_list_the_first_place_counts(tmp_path):
    run, _ = Draw(cells=10, genes=50, per_cell=20).run(tmp_path / "run")
    cells = pq.read_table(run.path / "cells.parquet")
    lists = cells["input_ids"].to_pylist()
    twice = lists[4][1]
    lists[4].append(twice)
    column = cells.column_names.index("input_ids")
    pq.write_table(
        cells.set_column(column, "input_ids", pa.array(lists, pa.list_(pa.int32()))), run.path / "cells.parquet"
    )
    seen = Observations.read(run, ["shift_goal"])
    places = in_cells(run, seen, seen.values["shift_goal"])
    mine = (seen.cell == 4) & (np.array(seen.tokens)[seen.gene] == twice)
    assert places.rank[mine].tolist() == [2]
    assert not np.isnan(places.adjusted).any()


def test_the_matched_null_has_a_floor_and_takes_the_confounder_out():
    rng = np.random.default_rng(6)
    rank, detected = rng.uniform(1, 2000, 1000), rng.integers(10, 500, 1000)
    effect = 5 - rank / 400 + rng.normal(0, 0.3, 1000)
    effect[0] += 30
    among = np.arange(1000) != 999
    result = matched_null(effect, rank, detected, among)
    assert result.p[0] == result.floor == 2 / 40  # of 999 genes the 39 nearest
    assert np.isnan(result.p[999])
    top = np.argsort(rank[1:])[:50] + 1
    assert 0.4 < result.p[top].mean() < 0.6
    assert np.isnan(matched_null(effect, rank, detected, np.arange(1000) < 20).p).all()


def test_every_column_is_documented():

    page = (ROOT / "docs" / "stats.md").read_text()
    for measure in MEASURES:
        assert measure.sentence in page
        for column in measure.columns:
            assert f"| `{column.name}` | {column.unit} | {column.meaning} |" in page


def test_what_cannot_be_drawn_or_grouped_is_refused(drawn, tmp_path):
    with pytest.raises(InputError, match="mend"):
        Draw(cells=1, genes=2, per_cell=3)
    with pytest.raises(InputError, match="'tissue' is not a column"):
        Donors.read(drawn[0], "tissue")
    one, _ = Draw(cells=5, genes=20, per_cell=10).run(tmp_path / "run")
    with pytest.raises(InputError, match="has 1 values, 2 to"):
        Donors.read(one, "donor")


def test_what_was_not_tested_comes_last_and_has_no_interval(tmp_path):
    """Of one cell a bootstrap gives an interval without width; a gene of too few cells is no finding and no certainty."""
    run, _ = Draw(cells=60, genes=80, per_cell=20, shifted=4, effect=2e-2).run(tmp_path / "run")
    least = 16
    for mode, mean in (("goal", "shift_mean"), ("mixture", "similarity_mean")):
        table = statistics(run, mode, judging=StatOptions(min_cells=least)).table().to_pandas()
        tested = table.cells >= least
        assert 10 < tested.sum() < len(table) - 10
        assert table.enough_cells.tolist() == tested.tolist() == sorted(tested, reverse=True)
        name = mean.removesuffix("_mean")
        low, high = table[f"{name}_low"], table[f"{name}_high"]
        assert low[~tested].isna().all()
        assert high[~tested].isna().all()
        assert (high[tested] > low[tested]).all()
        rest = table[tested & ~table.hit][mean]
        assert rest.is_monotonic_decreasing if mode == "goal" else rest.is_monotonic_increasing, mode
