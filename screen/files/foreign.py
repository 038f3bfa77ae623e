"""Foreign gene files read as {key: value}: JSON, two-column text, or a pickle of plain containers."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rankshift.screen.errors import InputError
from rankshift.screen.files.one_line import first_line
from rankshift.screen.files.plain_pickle import read_pickle


def read_mapping(path: Path) -> dict[str, Any]:
    """{key: value} of a .json, two-column .csv/.tsv/.txt (header optional) or .pkl/.pickle file.

    Keys are text, values text, int or float; entries without a value are left out.
    """
    path = readable(Path(path))
    readers: dict[str, Callable[[Path], Any]] = {
        ".json": _read_json,
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


def readable(path: Path) -> Path:
    """`path` if it is a file with content of its own; a Git LFS pointer is not."""
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file: check the path")
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise InputError(f"{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")
    return path


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {first_line(error)}") from error


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
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {first_line(error)}") from error
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    rows = [(line, row) for line, row in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), 1) if row]
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


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
