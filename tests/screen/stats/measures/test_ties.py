"""The ranks that a mean cannot be told from, against a loop over all pairs."""

import numpy as np

from drawn_runs import Draw
from rankshift.screen.runs.manifest import NoiseFloor
from rankshift.screen.stats.options import StatOptions
from rankshift.screen.stats.statistics import statistics

QUICK = StatOptions(bootstrap=0)


def by_hand(table, sign: int, floor: float) -> tuple[list[int], list[int]]:
    tested = table[table.enough_cells]
    strength = sign * tested.iloc[:, tested.columns.get_loc("shift_mean" if sign > 0 else "similarity_mean")].to_numpy()
    sd = tested["shift_sd" if sign > 0 else "similarity_sd"].to_numpy()
    near = np.maximum(sd / np.sqrt(tested.cells.to_numpy()), floor)
    first = [1 + sum(other > mine + reach for other in strength) for mine, reach in zip(strength, near, strict=True)]
    last = [sum(other >= mine - reach for other in strength) for mine, reach in zip(strength, near, strict=True)]
    return first, last


def test_ties_are_means_within_an_error_or_the_noise(tmp_path):
    run, _ = Draw(cells=60, genes=50, per_cell=30, shifted=10, effect=1e-3).run(tmp_path / "run")
    for mode, sign in (("goal", 1), ("mixture", -1)):
        table = statistics(run, mode, judging=QUICK).table().to_pandas()
        tested = table[table.enough_cells]
        assert (tested.tied_first.tolist(), tested.tied_last.tolist()) == by_hand(table, sign, 0.0)
        assert ((tested.tied_first <= tested["rank"]) & (tested["rank"] <= tested.tied_last)).all()
        assert table.tied_first[~table.enough_cells].isna().all()
    floor = NoiseFloor(n=9, median=1e-3, p99=5e-3, max=6e-3)
    column = f"shift_{run.manifest.route.goal}"
    noisy = run.record(noise_floor={column: floor})
    table = statistics(noisy, "goal", judging=QUICK).table().to_pandas()
    tested = table[table.enough_cells]
    assert (tested.tied_first.tolist(), tested.tied_last.tolist()) == by_hand(table, 1, 5e-3)


def test_there_are_none_over_donors(tmp_path):
    run, _ = Draw(cells=60, genes=40, per_cell=30, donors=(0.5, 0.5)).run(tmp_path / "run")
    assert (
        "tied_first" not in statistics(run, "goal", judging=StatOptions(bootstrap=0, by="donor")).table().column_names
    )
