"""Where the page draws cells: a picture's coordinates that the user brings, else principal components of the rank lists.

A run stores no embeddings. Of many cells a fixed sample is drawn, and the page says so; no model is loaded.
"""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.cells.ragged import places_of
from rankshift.screen.errors import InputError
from rankshift.screen.explore.opened.shown_run import ShownRun
from rankshift.screen.files.one_line import one_line
from rankshift.screen.runs.layout import CELLS
from rankshift.screen.runs.views import literal

DRAWN = 5000  # cells of a map: what a browser draws in SVG, and recolours, within a moment
VECTORS = "embedding"  # column of vectors in a file of `rankshift embed`
PICTURES = ("X_umap", "X_tsne", "X_pca", "X_rankshift")  # places in obsm, the first that is there is taken
FORMATS = (".h5ad", ".parquet", ".csv", ".tsv")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellMap:
    """Cells that are drawn. cell int32 [n], rising; place float32 [n, 2]; axes: what the directions are.

    source: where the coordinates are from, in words; total: cells of the run.
    """

    cell: np.ndarray
    place: np.ndarray
    axes: tuple[str, str]
    source: str
    total: int


def cell_map(connection: duckdb.DuckDBPyConnection, shown: ShownRun, file: Path | None = None) -> CellMap:
    """The map of a run: of the coordinates in `file`, matched by cell_id, else of the ranks of genes.

    Raises InputError where the file cannot be read, or has none of the run's cells.
    """
    total = int(connection.sql(f"SELECT count(*) FROM {shown.cells}").fetchall()[0][0])
    if file is not None:
        return _of_file(connection, shown, file, total)
    drawn = connection.sql(f"SELECT cell FROM {shown.cells} ORDER BY hash(cell), cell LIMIT {DRAWN}").to_arrow_table()
    cell = np.sort(drawn["cell"].to_numpy())
    place, axes = _components(connection, shown.run.path / CELLS, cell)
    return CellMap(
        cell=cell.astype(np.int32),
        place=place,
        axes=axes,
        source="principal components of the cells' ranks of genes: near cells rank genes alike. "
        "Bring a UMAP with --map FILE (.h5ad, or a table of cell_id and two columns).",
        total=total,
    )


def _of_file(connection: duckdb.DuckDBPyConnection, shown: ShownRun, file: Path, total: int) -> CellMap:
    names, vectors, axes = _read(file)
    cells = connection.sql(f"SELECT cell, cell_id FROM {shown.cells} ORDER BY cell").to_arrow_table()
    row = pd.Series(np.arange(len(names)), index=names)
    row = row[~row.index.duplicated()]
    found = row.reindex(cells["cell_id"].to_pylist()).to_numpy()
    there = ~np.isnan(found)
    if not there.any():
        raise InputError(
            f"{file} has no cell of run {shown.name} ({cells['cell_id'][0]} is not there): give its own cells"
        )
    cell, rows = cells["cell"].to_numpy()[there], found[there].astype(np.int64)
    picked = np.sort(np.random.default_rng(0).permutation(len(cell))[:DRAWN])
    vectors = vectors[rows[picked]].astype(np.float32)
    shares = axes
    if vectors.shape[1] > 2:
        vectors, shares = _principal(vectors)
    lacking = int((~there).sum())
    return CellMap(
        cell=cell[picked].astype(np.int32),
        place=vectors,
        axes=shares,
        source=f"coordinates of {file.name}" + (f", which lacks {lacking:,} of the run's cells" if lacking else ""),
        total=total,
    )


def _read(file: Path) -> tuple[list[str], np.ndarray, tuple[str, str]]:
    """Names of cells, vectors float [n, D >= 2], and what the first two directions are."""
    if file.suffix not in FORMATS:
        raise InputError(f"--map {file} is of no known kind: give one of {', '.join(FORMATS)}")
    if not file.is_file():
        raise InputError(f"--map {file} is no file: check the path")
    try:
        if file.suffix == ".h5ad":
            return _obsm(file)
        if file.suffix == ".parquet" and VECTORS in pq.read_schema(file).names:
            table = pq.read_table(file, columns=["cell_id", VECTORS])
            flat = table[VECTORS].combine_chunks()
            vectors = np.stack(flat.to_numpy(zero_copy_only=False))
            return [str(n) for n in table["cell_id"].to_pylist()], vectors, ("", "")
        if file.suffix == ".parquet":
            frame = pd.read_parquet(file)
        else:
            frame = pd.read_csv(file, sep="\t" if file.suffix == ".tsv" else ",")
    except (OSError, ValueError, KeyError, pa.ArrowException, pd.errors.ParserError) as error:
        raise InputError(f"--map {file} cannot be read ({one_line(error)}): write it again") from error
    names = frame["cell_id"] if "cell_id" in frame else frame[frame.columns[0]] if len(frame.columns) else []
    numbers = [c for c in frame.columns if pd.api.types.is_numeric_dtype(frame[c]) and c not in ("cell_id", "cell")]
    if len(numbers) < 2 or not len(frame):
        raise InputError(f"--map {file} has not two columns of numbers: give cell_id and two coordinates")
    return [str(n) for n in names], frame[numbers[:2]].to_numpy(), (str(numbers[0]), str(numbers[1]))


def _obsm(file: Path) -> tuple[list[str], np.ndarray, tuple[str, str]]:
    # start-up time: only a map out of an AnnData needs them
    import h5py
    from anndata.io import read_elem

    with h5py.File(file) as opened:
        places = list(opened["obsm"]) if "obsm" in opened else []
        key = next((k for k in (*PICTURES, *places) if k in places), None)
        if key is None:
            raise InputError(
                f"--map {file} has nothing in obsm: compute a UMAP, or give a table of cell_id and two columns"
            )
        obs, vectors = read_elem(opened["obs"]), np.asarray(read_elem(opened[f"obsm/{key}"]))
    names = obs.get("cell_id", obs.index)
    if vectors.ndim != 2 or vectors.shape[1] < 2:
        raise InputError(f"--map {file} has obsm/{key} of shape {vectors.shape}: two columns are needed")
    short = key.removeprefix("X_")
    return [str(n) for n in names], vectors, (f"{short} 1", f"{short} 2")


def _components(
    connection: duckdb.DuckDBPyConnection, path: Path, cell: np.ndarray
) -> tuple[np.ndarray, tuple[str, str]]:
    """float32 [n, 2]: principal components of the matrix of ranks, 1 for the first gene of a cell, near 0 for its last."""
    # start-up time: --help and a run with a map of its own need no scikit-learn
    from scipy.sparse import csr_matrix

    file = literal(str(path.resolve()))
    with connection.cursor() as cursor:
        cursor.register("drawn cells", pa.table({"cell": cell}))
        lists = cursor.sql(
            f"SELECT file_row_number AS cell, input_ids FROM read_parquet({file}, file_row_number = true) "
            'WHERE file_row_number IN (SELECT cell FROM "drawn cells") ORDER BY 1'
        ).to_arrow_table()["input_ids"].combine_chunks()  # fmt: skip
    counts = np.diff(lists.offsets.to_numpy())
    ids = lists.flatten().to_numpy()
    weight = 1 - places_of(counts) / np.repeat(np.maximum(counts, 1), counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    ranks = csr_matrix((weight.astype(np.float32), ids, starts), shape=(len(cell), int(ids.max(initial=0)) + 1))
    return _principal(ranks)


def _principal(vectors: "np.ndarray") -> tuple[np.ndarray, tuple[str, str]]:
    """float32 [n, 2] and titles of the first two principal components; of few or equal cells they are a row of points."""
    # start-up time: --help and a run with a map of its own need no scipy
    from rankshift.screen.stats.arithmetic.principal import principal

    spread = vectors.max(axis=0) - vectors.min(axis=0)
    if min(vectors.shape) < 3 or not abs(spread).max():
        return np.column_stack([np.arange(vectors.shape[0]), np.zeros(vectors.shape[0])]).astype(np.float32), (
            "cell",
            "",
        )
    place, _, held = principal(vectors)
    first, second = (f"PC{i + 1} ({share:.0%} of the variance)" for i, share in enumerate(held))
    return place.astype(np.float32), (first, second)
