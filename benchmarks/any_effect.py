"""Which genes have any effect: how many the test of an adaptive screen calls, beside the same test over the full screen.

    python -m benchmarks.any_effect

Drawn tables in which a share of the genes has an effect and the others have exactly none. Called at a false discovery rate of
5 %; FDP: share of those called that have none; power: share of those with an effect that are called.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from rankshift.screen.adaptive.allocation import Wanted
from rankshift.screen.adaptive.any_effect import any_effect
from rankshift.screen.adaptive.strata import pilot

sys.path.append(
    str(Path(__file__).resolve().parents[1] / "tests")
)  # no package holds drawn_tables.py, which tests share
from drawn_tables import Regime, Table, draw, played

CASES = (
    (0.10, 0.03, True),
    (0.02, 0.01, True),
    (0.30, 0.10, True),
    (0.0, 0.0, True),
    (0.10, 0.03, False),
)  # share, part of the variance, with a prediction
KNOWN, SEEDS, RATE, TOP = 0.9, 3, 0.05, 100


def with_effects(table: Table, share: float, part: float, seed: int) -> tuple[Table, np.ndarray]:
    """The table with effects of a share of its genes, which the prediction knows as well as all else; and which they are."""
    random = np.random.default_rng(1000 + seed)
    of = table.population
    true = random.random(of.genes) < share
    effect = np.where(true, random.normal(size=of.genes), 0.0) * np.sqrt(part / share if share else 0.0)
    scale = np.sqrt(1 - part)
    assert of.predicted is not None
    predicted = of.with_prediction(of.predicted * scale + KNOWN * effect[of.gene] * table.values.std())
    values = table.values * scale + effect[of.gene] * table.values.std()
    return replace(table, population=predicted, values=values, truth=effect), true


def counted(rate: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """Called, FDP, power."""
    called = np.nan_to_num(rate, nan=1.0) < RATE
    return (
        float(called.sum()),
        float((called & ~true).sum() / max(called.sum(), 1)),
        float((called & true).sum() / max(true.sum(), 1)),
    )


def rows() -> Iterator[str]:
    """Of the printed table."""
    regime = Regime(trend=0.27, known=KNOWN)
    full = regime.cells * (regime.per_cell + 1)
    for share, part, known in CASES:
        found = []
        for seed in range(SEEDS):
            table, true = with_effects(draw(regime, seed), share, part, seed)
            of = table.population if known else table.population.with_prediction(None)
            everything = np.ones(of.genes, bool)
            whole = any_effect(of, table.values, np.flatnonzero(pilot(of, seed, 6)), everything)[1]
            row = [*counted(whole, true)]
            for rate in (None, RATE):
                _, verdict = played(of, table.values, Wanted(top=TOP, seed=seed, fdr=rate))
                row += [verdict.passes / full, *counted(verdict.fdr, true)]
            found.append([*row, verdict.uncalled])
        a, b, c, *both, says = np.mean(found, axis=0)
        ways = (f"{p:.3f} | {d:.0f}, {e:.3f}, {f:.2f}" for p, d, e, f in (both[:4], both[4:]))
        of_effect = f"{share:.0%}, {part:.0%}{'' if known else ', no prediction'}"
        yield f"| {of_effect} | {a:.0f}, {b:.3f}, {c:.2f} | {' | '.join(ways)} | {says:.1f} |"


def main() -> None:
    """Print the table."""
    print(
        "| genes with an effect, part of the variance | full: called, FDP, power | --top 100: passes | called, FDP, power "
        "| and --fdr 0.05: passes | called, FDP, power | says it misses |"
    )
    print("|---|---|---|---|---|---|---|")
    for line in rows():
        print(line, flush=True)


if __name__ == "__main__":
    main()
