"""`statistics`: the table of a run by mode, in the published columns or in ours, and the file it is written to."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.seal import sealed_parquet
from rankshift.screen.runs.layout import STATISTICS
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.views import STAMP, committed_mark, own_mode
from rankshift.screen.runs.writing import writing
from rankshift.screen.stats import published
from rankshift.screen.stats.aggregate_tables import INDEX, cell_rows, gene_rows
from rankshift.screen.stats.effects import goal_effects, null_effects, similarity_effects
from rankshift.screen.stats.options import StatOptions

MODES = ("goal", "null", "mixture", "aggregate", "genes")
PUBLISHED = {
    "goal": published.goal,
    "mixture": published.mixture,
}  # tables of one run, as the published package makes them


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Rows to read once, and what holds for the whole table."""

    rows: pa.RecordBatchReader
    summary: dict[str, Any] = field(default_factory=dict)

    def table(self) -> pa.Table:
        """All rows."""
        return self.rows.read_all()

    def write(self, out: Path, run: Path | None = None) -> int:
        """Write a .csv or .parquet, whole or not at all; returns the number of rows. run: the folder of the run it belongs to.

        The index column of the published tables has no name in a CSV, as published, and is called `row` in Parquet.
        """
        check_out(out)
        schema, count = self.rows.schema, 0
        if out.suffix == ".parquet":
            names = ["row" if name == INDEX else name for name in schema.names]
            schema = pa.schema([f.with_name(n) for f, n in zip(schema, names, strict=True)], metadata=schema.metadata)
            schema = schema.with_metadata(
                {**(schema.metadata or {}), STAMP: json.dumps(self.summary, allow_nan=False).encode()}
            )
        with replacing(out) if run is None else writing(run, out) as temporary:
            if out.suffix == ".csv":
                options = pyarrow.csv.WriteOptions(quoting_style="needed", quoting_header="needed")
                opened: Any = pyarrow.csv.CSVWriter(temporary, schema, write_options=options)
            else:
                opened = sealed_parquet(temporary, schema, compression="zstd")
            with opened as writer:
                for batch in self.rows:
                    writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
                    count += batch.num_rows
        return count


def check_mode(mode: str) -> None:
    """Refuse what is none of MODES."""
    if mode not in MODES:
        raise InputError(f"mode {mode!r} is unknown: use one of {', '.join(MODES)}")


def check_out(out: Path) -> None:
    """Refuse a file of a kind that is not written."""
    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"--out {out} is neither .csv nor .parquet: give one of them")


def statistics(
    run: Run, mode: str, *, null: Run | None = None, reference_names: bool = False, judging: StatOptions | None = None
) -> Statistics:
    """The statistics of a run in one of MODES, in the columns that `measures` declare; docs/stats.md explains them.

    null: the run that mode null compares with. reference_names: columns, order and numbers of the published code instead.
    judging: minimum of cells, groups, resamples; for goal, mixture and null.
    Raises InputError on what does not fit the run.

    >>> statistics(Run.open("run"), "goal", judging=StatOptions(by="donor")).table()  # doctest: +SKIP
    """
    check_mode(mode)
    if (mode == "null") != (null is not None):
        raise InputError("--mode null and --null RUN belong together: give both or neither")
    _check(mode, reference_names, judging)
    for one in (run, null):
        if one is not None:
            one.check_whole("statistics")
    judging = judging or StatOptions()
    if mode == "aggregate":
        return Statistics(rows=cell_rows(run, published=reference_names))
    if mode == "genes":
        return Statistics(rows=gene_rows(run, published=reference_names))
    if reference_names:
        table = published.against_null(run, null) if null else PUBLISHED[mode](run)
        return Statistics(rows=table.to_reader())
    mark = {"committed": committed_mark(run.committed), "options": _given(judging)}  # before reading: never too new
    if null is not None:
        table, summary = null_effects(run, null, judging)
    else:
        table, summary = (goal_effects if mode == "goal" else similarity_effects)(run, judging)
    return Statistics(rows=table.to_reader(), summary={"mode": mode, **summary, **mark})


def record(run: Run, found: Statistics) -> Statistics:
    """Keep the statistics of a run's own mode in the run, as its views `statistics` and `hits`; returns them to be read again.

    Views count them as long as no further shard is committed. Raises InputError for a mode that is not the run's own, or
    where the run cannot be written to.
    """
    if found.summary.get("mode") != own_mode(run):
        raise InputError(f"{run.path} keeps statistics of mode {own_mode(run)} only: write others with --out FILE")
    table = found.table()
    try:
        Statistics(rows=table.to_reader(), summary=found.summary).write(run.path / STATISTICS, run.path)
        run.share(STATISTICS)
    except PermissionError as error:
        raise InputError(f"{run.path} cannot be written to ({error.strerror}): write to --out FILE instead") from error
    return Statistics(rows=table.to_reader(), summary=found.summary)


def _given(judging: StatOptions) -> dict[str, Any]:
    """The options that are not the defaults."""
    plain = asdict(StatOptions())
    return {name: value for name, value in asdict(judging).items() if value != plain[name]}


def _check(mode: str, reference_names: bool, judging: StatOptions | None) -> None:
    plain = StatOptions()
    if judging is None or judging == plain:
        return
    if reference_names or mode in ("aggregate", "genes"):
        what = "the published columns have" if reference_names else f"mode {mode} has"
        raise InputError(f"{what} no --by, --min-cells, --bootstrap or --seed: leave them out")
