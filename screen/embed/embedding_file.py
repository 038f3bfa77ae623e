"""Embeddings with what their rows are, as files: Parquet, or AnnData for scanpy. It computes none.

A file records model, level and layer, because vectors of different ones have equal widths.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing

if TYPE_CHECKING:
    from anndata import AnnData

VECTORS = "embedding"  # the column of the vectors in Parquet
OBSM = "X_rankshift"  # their place in AnnData
FORMATS = (".parquet", ".h5ad")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Embeddings:
    """n vectors and their rows.

    rows: n rows of annotations. key: the columns that name a row. vectors: float32 [n, D]. about: level, layer and
    weights_sha256 of the model, and what else there is to know of how they were made.
    """

    rows: pa.Table
    key: tuple[str, ...]
    vectors: np.ndarray
    about: dict[str, str]

    def __post_init__(self) -> None:
        if len(self.vectors) != self.rows.num_rows:
            raise ValueError(f"{len(self.vectors)} vectors do not fit {self.rows.num_rows} rows")

    def write(self, path: Path) -> None:
        """Write `path` whole or not at all: .parquet (`rows`, then `embedding`) or .h5ad (see `to_anndata`)."""
        check_file(path, self.rows.column_names)
        with replacing(path) as temporary:
            if path.suffix == ".h5ad":
                self.to_anndata().write_h5ad(temporary)
            else:
                pq.write_table(
                    stamped(with_vectors(self.rows, self.vectors), self.about), temporary, compression="zstd"
                )

    def to_anndata(self) -> "AnnData":
        """The vectors as `obsm["X_rankshift"]`, the other columns as `obs`, `about` as `uns["rankshift"]`; no X.

        Rows are named by their key, joined by "@"; a key of one column is not in `obs` again. Empty whole numbers and
        truth values stay empty (pandas' nullable types); what h5ad has no type for, dates say, becomes text.
        """
        from anndata import AnnData  # start-up time: most embeddings go to Parquet

        parts = zip(*(self.rows[name].to_pylist() for name in self.key), strict=True)
        names = ["@".join(str(part) for part in row if part is not None) for row in parts]
        kept = [name for name in self.rows.column_names if (name,) != self.key]
        obs = pd.DataFrame({name: _series(self.rows[name]) for name in kept}).set_axis(names)
        return AnnData(obs=obs, obsm={OBSM: self.vectors}, uns={"rankshift": dict(self.about)})


def check_file(path: Path, columns: list[str]) -> None:
    """Refuse a file that could not be written, before anything is computed for it. columns: of the rows."""
    if path.suffix not in FORMATS:
        raise InputError(f"--out {path} is neither of {', '.join(FORMATS)}: name one of those")
    if path.suffix == ".parquet" and VECTORS in columns:
        raise InputError(f"column {VECTORS!r} of the cells is in the way of the vectors: rename it, or write .h5ad")
    crossed = [name for name in columns if "/" in name]
    if path.suffix == ".h5ad" and crossed:
        raise InputError(f"column {crossed[0]!r} has a '/', which h5ad has no name for: rename it, or write .parquet")


def with_vectors(rows: pa.Table, vectors: np.ndarray) -> pa.Table:
    """`rows` with the vectors as a column of lists of one length."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return rows.append_column(VECTORS, pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))


def stamped(table: pa.Table, about: dict[str, str]) -> pa.Table:
    """The table with `about` in its Parquet metadata."""
    return table.replace_schema_metadata({f"rankshift.{key}": value for key, value in about.items()})


def _series(column: pa.ChunkedArray) -> pd.Series:
    kind = column.type
    if pa.types.is_floating(kind):
        return column.to_pandas()
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        nullable = pd.BooleanDtype() if pa.types.is_boolean(kind) else pd.Int64Dtype()
        return column.to_pandas(types_mapper=(lambda _: nullable) if column.null_count else None)
    return pd.Series(pd.Categorical(column.cast(pa.string()).to_pandas()))
