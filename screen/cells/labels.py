"""Values of obs columns as labels: states, donors and classes. One value has one text, whatever type a file holds it in.

What is missing is null, never a text: not-a-number, and the words that other programs write for it. 0, 0.0 and a 0 that a
missing neighbour turned into 0.0 are the same label.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rankshift.screen.errors import InputError

MISSING = frozenset({"nan", "NaN", "<NA>", "NaT"})  # what numpy and pandas write for a missing value
EXACT = 2**53  # from here on a float64 does not know its neighbours, and is no count or code


def label_text(value: Any) -> str | None:
    """The text of one value, None where it is missing.

    >>> label_text(1), label_text(1.0), label_text("1"), label_text(True), label_text(float("nan")), label_text(0.5)
    ('1', '1', '1', 'true', None, '0.5')
    """
    if isinstance(value, np.generic) and not isinstance(value, np.float32 | np.float16):
        value = value.item()
    if value is None or (isinstance(value, str) and value in MISSING):
        return None
    if isinstance(value, bool):
        return str(value).lower()  # as Arrow and SQL write it
    if isinstance(value, float | np.floating):
        number = float(value)
        if np.isnan(number):
            return None
        return str(int(number)) if number.is_integer() and abs(number) < EXACT else str(value)
    if isinstance(value, Decimal):
        return str(int(value)) if value.is_finite() and value == value.to_integral_value() else str(value)
    return str(value)


def label_texts(column: pa.ChunkedArray | pa.Array, what: str) -> pa.StringArray:
    """The text of every value of a column, null where it is missing. what: the option or column, for the refusal.

    Raises InputError on a column of lists or structures, which are no labels.
    """
    held = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
    kind = held.type
    if pa.types.is_dictionary(kind):
        held, kind = held.cast(kind.value_type), kind.value_type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise InputError(f"{what} is of type {kind}: give a column of labels")
    coded = held.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    texts = pa.array([label_text(value) for value in _values(coded.dictionary)], pa.string())
    return texts.take(coded.indices)


def label_meant(column: pa.ChunkedArray | pa.Array, wanted: Any) -> str:
    """The label that a user means by `wanted`, a word of a command line or a value of Python, in a column of this type.

    Of a column of numbers, 1, 1.0 and "1.0" all mean 1; of truth values, true and True are the same. Text means itself.

    >>> label_meant(pa.array([0.0, 1.0]), "1.0"), label_meant(pa.array([True]), "True"), label_meant(pa.array(["1.0"]), "1.0")
    ('1', 'true', '1.0')
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    text = label_text(wanted)
    if text is None:
        return str(wanted)
    if pa.types.is_boolean(kind):
        return text.lower()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        try:
            number = float(text) if not text.lstrip("+-").isdecimal() else int(text)
            return label_text(number) or text
        except (ValueError, OverflowError):
            return text
    return text


def labels_of(table: pa.Table, column: str, what: str) -> pa.StringArray:
    """`label_texts` of a column by its name; raises InputError naming the columns there are where it is none of them."""
    if column not in table.column_names:
        raise InputError(f"{what} {column!r} is not a column: the columns are {', '.join(table.column_names)}")
    return label_texts(table.column(column), f"{what} {column!r}")


def without_nan(table: pa.Table) -> pa.Table:
    """The table with not-a-number as null: in SQL a NaN equals itself and is above every number, so that filters keep it."""
    for at, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_dictionary(kind) and pa.types.is_floating(kind.value_type):
            table = table.set_column(at, field.name, table.column(at).cast(kind.value_type))
            kind = kind.value_type
        if pa.types.is_floating(kind):
            column = table.column(at)
            missing = pc.is_nan(column)
            if pc.any(missing).as_py():
                table = table.set_column(at, field.name, pc.if_else(missing, pa.scalar(None, kind), column))
    return table


def _values(array: pa.Array) -> Sequence[Any]:
    """Python values; of float32, values that print as they were written."""
    if pa.types.is_floating(array.type) and array.type != pa.float64():
        kind = np.dtype(array.type.to_pandas_dtype()).type
        return [None if value is None else kind(value) for value in array.to_pylist()]
    return array.to_pylist()
