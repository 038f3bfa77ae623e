"""Foreign gene files read as {key: value}: JSON, two-column text, or a pickle of plain containers."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rankshift.screen.errors import InputError
from rankshift.screen.files.json_file import read_json
from rankshift.screen.files.one_line import first_line
from rankshift.screen.files.plain_pickle import read_pickle
from rankshift.screen.files.text_file import read_text, readable


def read_mapping(path: Path) -> dict[str, Any]:
    """{key: value} of a .json, two-column .csv/.tsv/.txt (header optional) or .pkl/.pickle file.

    Keys are text, values text, int or float; entries without a value are left out.
    """
    path = readable(Path(path))
    readers: dict[str, Callable[[Path], Any]] = {
        ".json": read_json,
        ".csv": _read_columns,
        ".tsv": _read_columns,
        ".txt": _read_columns,
        ".pkl": read_pickle,
        ".pickle": read_pickle,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: gene files end in {', '.join(readers)}, not {path.suffix or 'nothing'}: convert or rename it"
        )
    mapping = reader(path)
    if not isinstance(mapping, dict):
        raise InputError(f"{path} holds a {type(mapping).__name__}, not a mapping of genes: give {{key: value}}")
    if not mapping:
        raise InputError(f"{path} holds no entry: give {{key: value}}")
    plain = {str(_plain(key)): _plain(value) for key, value in mapping.items() if value is not None}
    for key, value in plain.items():
        if not isinstance(value, (str, int, float)):
            raise InputError(f"{path}: value of {key} is a {type(value).__name__}: give one number or name per key")
    return plain


_HEADER = {
    "gene",
    "gene_id",
    "ensembl",
    "ensembl_id",
    "id",
    "symbol",
    "gene_name",
    "gene_symbol",
    "name",
    "alias",
    "key",
    "value",
}
_HEADER |= {"token", "median", "from", "to", "target", "old", "new"}


def _read_columns(path: Path) -> dict[str, Any]:
    """Two columns; a first row is a header when only its value is text, or when both its fields are column names."""
    text = read_text(path)
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    rows = [(line, row) for line, row in enumerate(fields(text, path, delimiter), 1) if row]
    for line, row in rows:
        if len(row) != 2:
            raise InputError(f"{path} line {line} has {len(row)} columns: give two, key and value")
    pairs = [(row[0].strip(), _number(row[1].strip())) for _, row in rows]
    if pairs:
        numeric = len(pairs) > 1 and all(not isinstance(value, str) for _, value in pairs[1:])
        named = {pairs[0][0].lower(), str(pairs[0][1]).lower()} <= _HEADER
        if named or (numeric and isinstance(pairs[0][1], str)):
            pairs = pairs[1:]
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if mapping.setdefault(key, value) != value:
            raise InputError(f"{path} gives {key} both {mapping[key]} and {value}: keep one")
    return mapping


def fields(text: str, path: Path, delimiter: str) -> list[list[str]]:
    """The fields of every line; a line that CSV cannot hold is refused."""
    try:
        return list(csv.reader(text.splitlines(), delimiter=delimiter))
    except csv.Error as error:
        raise InputError(f"{path} is no table of two columns ({first_line(error)}): repair it") from error


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
