"""One SELECT of the user, as of `rankshift query`: the first rows for the screen, or all of them in a file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from rankshift.screen.explore.columns import columns_of
from rankshift.screen.explore.opened.session import Session
from rankshift.screen.query_memory import refused_in_words
from rankshift.screen.runs.run import Run
from rankshift.screen.runs.sql import ask, refusal

SHOWN = 1000  # rows on the screen
BATCH = 100_000


def answer(
    session: Session, query: str, started: Callable[[Callable[[], None]], None] = lambda stop: None
) -> dict[str, Any]:
    """The first rows of a SELECT by column, their types, whether there are more, and how long it took.

    started: is given a function that ends the query from another thread. Raises InputError for what is no SELECT or fails.
    """
    before = time.perf_counter()
    with reading(session, query, started) as reader:
        batches: list[pa.RecordBatch] = []
        rows = 0
        for batch in reader:
            batches.append(batch)
            rows += batch.num_rows
            if rows > SHOWN:
                break
        table = pa.Table.from_batches(batches, reader.schema)
        types = [str(kind) for kind in table.schema.types]
        shown = columns_of(table.slice(0, SHOWN))
    return {"rows": shown, "types": types, "more": rows > SHOWN, "seconds": time.perf_counter() - before}


@contextmanager
def reading(
    session: Session, query: str, started: Callable[[Callable[[], None]], None] = lambda stop: None
) -> Iterator[pa.RecordBatchReader]:
    """All rows of a SELECT in batches, computed while they are read."""
    first, *rest = session.runs.values()
    others: dict[str, Run] = {shown.name: shown.run for shown in rest}
    with refused_in_words(), session.connection.cursor() as cursor:
        started(cursor.interrupt)
        try:
            yield ask(cursor, query, first.run, others).to_arrow_reader(BATCH)
        except duckdb.Error as error:
            raise refusal(error, query, first.run, others) from error
