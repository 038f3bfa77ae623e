"""Annotations of cells: those of several files made one table, with one type per column and one name per cell."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import pyarrow as pa

from rankshift.screen.cells.labels import label_texts
from rankshift.screen.errors import InputError
from rankshift.screen.files.one_line import first_line

if TYPE_CHECKING:
    from anndata import AnnData


def is_anndata(data: Any) -> TypeGuard["AnnData"]:
    """Is it an AnnData? Told without importing anndata, which takes a second."""
    anndata = sys.modules.get("anndata")
    return anndata is not None and isinstance(data, anndata.AnnData)


def unified(files: Sequence[Path], tables: Sequence[pa.Table]) -> list[pa.Table]:
    """The tables (cell_id and the same columns each) in one schema, cell_id as text.

    Names that occur twice get the stem of their file in front, or where that does not tell them apart their row behind.
    Raises InputError when a column has types that no type holds.
    """
    try:
        names = [label_texts(table.column("cell_id"), "cell_id").to_pylist() for table in tables]
        tables = [_renamed(table, part) for table, part in zip(tables, names, strict=True)]
        schema = pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
        tables = [table.cast(schema) for table in tables]
    except pa.ArrowException as error:
        raise InputError(f"a kept column differs between the files ({first_line(error)}): keep it out") from error
    if len({name for part in names for name in part}) < sum(map(len, names)):  # a barcode in two files, or twice in one
        stems = [file.stem for file in files]
        prefix = stems if len(set(stems)) == len(stems) else [f"{stem}.{i}" for i, stem in enumerate(stems)]
        names = [[f"{stem}:{name}" for name in part] for stem, part in zip(prefix, names, strict=True)]
    if len({name for part in names for name in part}) < sum(map(len, names)):
        names = [[f"{name}:{row}" for row, name in enumerate(part)] for part in names]
    return [_renamed(table, part) for table, part in zip(tables, names, strict=True)]


def _renamed(table: pa.Table, names: list[str]) -> pa.Table:
    return table.set_column(table.column_names.index("cell_id"), "cell_id", pa.array(names, pa.string()))
