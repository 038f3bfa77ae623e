"""Tables on their way to a file of the reader: CSV, a batch at a time, so that memory holds a few of them."""

from collections.abc import Iterable, Iterator
from io import BytesIO

import pyarrow as pa
import pyarrow.csv

from rankshift.screen.errors import InputError

OPTIONS = {"quoting_style": "needed"}


def check_flat(schema: pa.Schema) -> None:
    """Refuse columns that a CSV cannot hold, and names that come twice, before the first byte is sent."""
    for field in schema:
        if pa.types.is_nested(field.type):
            raise InputError(f"CSV cannot hold column {field.name!r} ({field.type}): cast it, or take a field of it")
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise InputError(f"column {twice[0]!r} comes {schema.names.count(twice[0])} times: rename with AS")


def csv_lines(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """The header, then the rows of every batch."""
    yield _csv(
        pa.table({name: pa.array([], type) for name, type in zip(schema.names, schema.types, strict=True)}), True
    )
    for batch in batches:
        yield _csv(pa.Table.from_batches([batch]), False)


def _csv(table: pa.Table, header: bool) -> bytes:
    sink = BytesIO()
    pyarrow.csv.write_csv(table, sink, pyarrow.csv.WriteOptions(include_header=header, **OPTIONS))
    return sink.getvalue()
