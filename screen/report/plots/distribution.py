"""One perturbation, cell by cell: the spread of its effect over all cells and over groups of cells, beside the other genes.

Large screens are sampled with a fixed seed, and what is left out is counted: `values_of` reads a few perturbations only,
`other_values` a sample of all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rankshift.screen.errors import InputError
from rankshift.screen.report.findings import goal_of, judged_column
from rankshift.screen.report.plots import theme
from rankshift.screen.report.plots.drawing import Drawing
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import quoted

CELLS = 600  # drawn per perturbation
OTHERS = 1000  # values of other perturbations drawn beside them
GROUPS = 12  # values of a column that are told apart
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Values:
    """Effects of one perturbation, in cell order. cell int32 [n], effect float64 [n]; total: cells there are."""

    perturbation: int
    symbols: str
    gene_ids: str
    cell: np.ndarray
    effect: np.ndarray
    total: int


def plot_gene(run: Run, gene: str, *, by: str | None = None, width: int | None = None, height: int = 420) -> Drawing:
    """The effect of perturbing `gene` (symbol or Ensembl id, of several joined by +) in every cell, apart for values of `by`.

    Raises InputError when the run has no such perturbation, or no such column.
    """
    number = run.finished(gene)
    values = values_of(run, [number])[number]
    label = [values.symbols] * len(values.cell)
    if by is not None:
        columns = grouping_columns(run)
        if by not in columns:
            raise InputError(f"cells have no groups by {by!r}: use one of {', '.join(columns) or 'none'}")
        label = [columns[by][c] for c in values.cell.tolist()]
    return draw(run, values, label, other_values(run), width=width, height=height)


def values_of(run: Run, numbers: Sequence[int]) -> dict[int, Values]:
    """Effects of these perturbations by their number, at most CELLS each: a sample that is the same every time."""
    effect = _effect(run)
    wanted = ", ".join(str(int(n)) for n in numbers)
    table = run.sql(f"""
        SELECT perturbation, symbols, gene_ids, cell, {effect} AS effect, count(*) OVER (PARTITION BY perturbation) AS total
        FROM shifts WHERE perturbation IN ({wanted}) AND {effect} IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY perturbation ORDER BY hash(cell, {SEED})) <= {CELLS}
        ORDER BY perturbation, cell""")
    found = {}
    number = table["perturbation"].to_numpy()
    for n in np.unique(number).tolist():
        rows = table.slice(int(np.searchsorted(number, n)), int((number == n).sum()))
        found[n] = Values(
            perturbation=n,
            symbols=rows["symbols"][0].as_py(),
            gene_ids=rows["gene_ids"][0].as_py(),
            cell=rows["cell"].to_numpy(),
            effect=rows["effect"].to_numpy().astype(np.float64),
            total=rows["total"][0].as_py(),
        )
    return found


def other_values(run: Run) -> np.ndarray:
    """float64 [at most OTHERS]: effects of any perturbations in any cells, drawn from all rows."""
    effect = _effect(run)
    table = run.sql(
        f"SELECT {effect} AS effect FROM shifts WHERE {effect} IS NOT NULL ORDER BY hash(cell, perturbation) LIMIT {OTHERS}"
    )
    return table["effect"].to_numpy().astype(np.float64)


def _effect(run: Run) -> str:
    column = f"CAST({quoted(judged_column(run))} AS DOUBLE)"
    return column if goal_of(run) is not None else f"1 - {column}"


def grouping_columns(run: Run) -> dict[str, list[str]]:
    """Obs columns that tell 2 to GROUPS groups apart, with the value of every cell as text."""
    names = [n for n in run.sql("SELECT * FROM cells LIMIT 0").column_names if n not in ("cell", "cell_id", "length")]
    if not names:
        return {}
    counts = run.sql(f"SELECT {', '.join(f'count(DISTINCT {quoted(n)})' for n in names)} FROM cells").to_pylist()[0]
    chosen = [n for n, count in zip(names, counts.values(), strict=True) if 2 <= count <= GROUPS]
    if not chosen:
        return {}
    texts = ", ".join(f"coalesce(CAST({quoted(n)} AS VARCHAR), '(empty)')" for n in chosen)
    rows = run.sql(f"SELECT {texts} FROM cells ORDER BY cell")
    return {n: rows.column(i).to_pylist() for i, n in enumerate(chosen)}


def draw(
    run: Run,
    values: Values,
    label: Sequence[str],
    others: np.ndarray,
    *,
    width: int | None = None,
    height: int = 420,
) -> Drawing:
    """A violin with a box and the single cells per label, first the others in grey."""
    made = theme.figure(height, width, margin={"l": 64, "r": 16, "t": 16, "b": 44}, showlegend=False)
    made.axis("yaxis", title=effect_title(run), zeroline=True)
    made.axis("xaxis", type="category")
    shape = {
        "box": {"visible": True},
        "meanline": {"visible": True},
        "spanmode": "hard",
        "scalemode": "width",
        "width": 0.7,
    }
    made.trace(
        "violin",
            x=["other genes"] * len(others), y=others, name="other genes", points=False, line={"color": theme.OTHER},
            hoverinfo="y", **shape,
    )  # fmt: skip
    made.trace(
        "violin",
            x=[theme.plain(text) for text in label], y=values.effect, name=theme.plain(values.symbols), points="all",
            jitter=0.5, pointpos=0, marker={"size": 5, "opacity": 0.55}, line={"color": theme.TOWARDS},
            hovertemplate="%{y:.3g}<extra></extra>", hoveron="points", **shape,
    )  # fmt: skip
    return made


def effect_title(run: Run) -> str:
    """What one cell's effect is, for the axis."""
    goal = goal_of(run)
    return "1 − similarity" if goal is None else f"shift towards {theme.plain(goal)}"
