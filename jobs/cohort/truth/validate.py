"""`rankshift validate`: the comparison with the wet lab in words, as a table, and as a page."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq

from rankshift.jobs.cohort.truth.compare import Answered, compare
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.report.page import ASSETS
from rankshift.screen.study.validation.truth import Truth
from rankshift.screen.study.validation.validate import Validation

HERE = Path(__file__).parent
TABLES = (".csv", ".parquet")
FEWEST = 40  # resamples: fewer have no 2.5 % at either end
WIDTH, LEFT = 520, 150  # of the picture of areas, in pixels
Say = Callable[[str], None]


def validate(
    place: Path | str,
    truth: Path | str,
    out: Path | str | None = None,
    *,
    page: Path | str | None = None,
    trained_on: Sequence[str] = (),
    bootstrap: int = 2000,
    seed: int = 0,
    say: Say = print,
) -> Validation:
    """Compare a study or a run with a table of truth. out: a .csv or .parquet of the table; page: an .html.

    >>> validate("study", "crispr.csv", page="crispr.html")  # doctest: +SKIP
    """
    table, html = (None if given is None else Path(given) for given in (out, page))
    if table is not None and table.suffix.lower() not in TABLES:
        raise InputError(f"--out {table} has no known ending: end it in {' or '.join(TABLES)}")
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--page {html} is no .html: give a name that ends in .html")
    if bootstrap < FEWEST:
        raise InputError(f"--bootstrap is {bootstrap}: an interval takes {FEWEST} resamples at least")
    said, known, found = compare(place, truth, trained_on=trained_on, bootstrap=bootstrap, seed=seed)
    for line in found.lines():
        say(line)
    if table is not None:
        with replacing(table) as temporary:
            if table.suffix.lower() == ".parquet":
                pq.write_table(found.table, temporary, compression="zstd")
            else:
                pyarrow.csv.write_csv(found.table, temporary)
        say(f"{table}: {found.table.num_rows} rows")
    if html is not None:
        with replacing(html) as temporary:
            temporary.write_text(text(said, known, found, str(truth)), encoding="utf-8")
        say(f"{html}: to look at")
    return found


def text(said: Answered, known: Truth, found: Validation, truth: str) -> str:
    """The page."""
    # start-up time: only who asks for a page needs templates
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    rows = found.table.to_pylist()
    directions = list(dict.fromkeys(row["direction"] for row in rows))
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("validation.html").render(
        title=f"{Path(said.what).name} beside {Path(truth).name}",
        version=version("rankshift"),
        lines="\n".join(found.lines()),
        columns=[(field.name, _meaning(field)) for field in found.table.schema],
        rows=[[_shown(row[name]) for name in found.table.column_names] for row in rows],
        pictures=[(way, _marks([row for row in rows if row["direction"] == way])) for way in directions],
        width=WIDTH,
        left=LEFT,
        genes=_genes(said, known),
        provenance={"screen": said.what, "truth": truth, "genes of the truth that are not in it": len(known.unmatched)},
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
    )


def _genes(said: Answered, known: Truth) -> list[list[str]]:
    """Hits of the truth with what the screen says of them, the strongest effect first."""
    size = {i: abs(float(said.effect[i])) for i in range(len(said.gene_ids)) if known.hit[i]}
    order = sorted(size, key=lambda i: (size[i] != size[i], -size[i] if size[i] == size[i] else 0.0))
    ways = {1: "towards", -1: "away", 0: ""}
    return [
        [
            str(said.symbols[i] or said.gene_ids[i]),
            ways[int(known.direction[i])],
            _shown(float(said.effect[i])),
            ways[int(said.called[i])] or "not called",
        ]
        for i in order
    ]


def _marks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Areas under the curve with their intervals, in pixels, a line for every method."""

    def x(value: float | None) -> float:
        return round(LEFT + (0.0 if value is None else value) * (WIDTH - LEFT - 20), 1)

    return [
        {
            "name": row["method"],
            "y": 24 + 22 * i,
            "x": x(row["auroc"]),
            "low": x(row["auroc_low"] if row["auroc_low"] is not None else row["auroc"]),
            "high": x(row["auroc_high"] if row["auroc_high"] is not None else row["auroc"]),
            "own": i == 0,
            "text": f"{row['method']}: {_shown(row['auroc'])}",
        }
        for i, row in enumerate(rows)
    ]


def _meaning(field: Any) -> str:
    return (field.metadata or {}).get(b"meaning", b"").decode()


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
