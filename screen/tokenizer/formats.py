"""Which reader a file of counts needs: h5ad and loom are read in blocks, other formats whole, as the AnnData they amount to.

It refuses what is no count matrix by saying what to give instead. Features other than gene expression are left out and counted.
"""

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import scipy.sparse as sp
import zarr
from anndata.io import read_elem, read_zarr
from scipy.io import mmread

from rankshift.screen.errors import InputError
from rankshift.screen.files.expansion import check_expansion
from rankshift.screen.files.hdf5 import open_hdf5
from rankshift.screen.files.one_line import first_line
from rankshift.screen.tokenizer.count_file import CountFile
from rankshift.screen.tokenizer.counts import Counts, CountsInMemory
from rankshift.screen.tokenizer.endings import MATRIX, TABLES, is_zarr, modality_of, mtx_of

HOUSEKEEPING = frozenset(["ACTB", "B2M", "EEF1A1", "GAPDH", "HSP90AB1", "PPIA", "RPL13A", "RPLP0", "TPT1", "UBC"])
EXPRESSION = "Gene Expression"
DAMAGED = (  # what readers of other formats raise for files that are damaged, or laid out in another way
    OSError, EOFError, zlib.error, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError,
)  # fmt: skip
_ENSEMBL = re.compile(r"ENS[A-Z]*\d{6,}", re.IGNORECASE)


def open_counts(path: Path, layer: str | None = None) -> Counts:
    """The counts of a file or folder of any format. layer: as for `CountFile`."""
    read = _reader(path)
    if read is None:
        return CountFile(path, layer)
    try:
        data, notes = read(path)
    except DAMAGED as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({first_line(error)}): write it again, best as .h5ad") from error
    counts = CountsInMemory(data, layer, path)
    counts.notes += [f"{path.name}: {note}" for note in notes]
    return counts


def _reader(path: Path) -> Any:
    """What reads this path into an AnnData, None for h5ad and loom."""
    name = path.name.lower()
    if path.is_dir():
        return _read_zarr if is_zarr(path) else _read_mtx if mtx_of(path) is not None else None
    if name.endswith(TABLES):
        return _read_table
    if name in MATRIX:
        return lambda matrix: _read_mtx(matrix.parent)
    return {".h5": _read_10x, ".h5mu": _read_mudata}.get(path.suffix) if path.is_file() else None


def _read_zarr(folder: Path) -> tuple[anndata.AnnData, list[str]]:
    whole = zarr.open_group(folder, mode="r")
    groups = [whole]
    while groups:
        group = groups.pop()
        groups += [inner for _, inner in group.groups()]
        for name, array in group.arrays():
            check_expansion(f"{folder}: {group.path}/{name}", array.nbytes, array.nbytes_stored)
    return read_zarr(whole), []


def _read_mudata(path: Path) -> tuple[anndata.AnnData, list[str]]:
    """The modality with genes of a MuData file, which holds each as an AnnData."""
    with open_hdf5(path, "MuData") as file:
        names = list(file["mod"])
        name = modality_of(names)
        if name is None:
            raise InputError(
                f"{path} has modalities {', '.join(names)}, none called rna: write the one with genes as .h5ad"
            )
        others = f", not {', '.join(n for n in names if n != name)}" if len(names) > 1 else ""
        return read_elem(file[f"mod/{name}"]), [f"counts are those of modality {name}{others}"]


def _read_10x(path: Path) -> tuple[anndata.AnnData, list[str]]:
    """A matrix of Cell Ranger, version 3 and later: genes by cells in columns, and so cells by genes in rows."""
    with open_hdf5(path, "10x") as file:
        if "matrix" not in file or "features" not in file["matrix"]:
            if "X" in file:
                raise InputError(f"{path} looks like an AnnData: call it .h5ad")
            raise InputError(f"{path} is no feature-barcode matrix of Cell Ranger 3 or later: write it as .h5ad")
        matrix, features = file["matrix"], file["matrix/features"]
        genes, cells = (int(n) for n in matrix["shape"][:])
        x = sp.csr_matrix((matrix["data"][:], matrix["indices"][:], matrix["indptr"][:]), (cells, genes))
        columns = {name: features[name].asstr()[:] for name in ("id", "name", "feature_type") if name in features}
        return _expression(path, x, matrix["barcodes"].asstr()[:], columns)


def _read_mtx(folder: Path) -> tuple[anndata.AnnData, list[str]]:
    """A folder of Cell Ranger: matrix.mtx, barcodes.tsv and features.tsv (genes.tsv of version 2), perhaps compressed."""

    def lines(*names: str) -> Any:
        for file in (folder / f"{name}{ending}" for name in names for ending in ("", ".gz")):
            if file.is_file():
                return pd.read_csv(file, sep="\t", header=None, dtype=str)
        raise InputError(f"{folder} has a matrix.mtx but no {' or '.join(names)}: copy the whole folder")

    features, barcodes = lines("features.tsv", "genes.tsv"), lines("barcodes.tsv")
    columns = dict(zip(("id", "name", "feature_type"), (features[c].to_numpy() for c in features), strict=False))
    return _expression(folder, sp.csr_matrix(mmread(mtx_of(folder)).T), barcodes[0].to_numpy(), columns)


def _expression(
    path: Path, x: sp.csr_matrix, cells: Any, features: dict[str, Any]
) -> tuple[anndata.AnnData, list[str]]:
    """An AnnData of the features that are genes, by Ensembl id in gene_ids and named by symbol, as scanpy has it."""

    if x.shape != (len(cells), len(features["id"])):
        raise InputError(
            f"{path}: the matrix is {x.shape}, but there are {len(cells)} barcodes and {len(features['id'])} features"
        )
    x.check_format(full_check=True)  # scipy reads beyond its arrays where an index lies outside of the matrix
    kinds = features.get("feature_type", np.full(len(features["id"]), EXPRESSION))
    genes = kinds == EXPRESSION
    names = pd.Index(features.get("name", features["id"])[genes])
    data = anndata.AnnData(
        x[:, np.flatnonzero(genes)],
        obs=pd.DataFrame(index=pd.Index(cells)),
        var=pd.DataFrame({"gene_ids": features["id"][genes]}, index=names),
    )
    others = ", ".join(sorted(set(kinds[~genes])))
    return data, [f"{int((~genes).sum())} features are left out ({others})"] if others else []


def _read_table(path: Path) -> tuple[anndata.AnnData, list[str]]:
    """A table of counts with Ensembl ids or symbols along one side, which says which side the genes are."""

    try:
        frame = pd.read_csv(path, sep=_separator(path), index_col=0)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no table of counts ({first_line(error)}): write it as .h5ad") from error
    sides = (frame.index, frame.columns)
    down, across = (_share(labels) for labels in sides)
    if max(down, across) < 0.5:
        down, across = (_housekeeping(labels) for labels in sides)
    if max(down, across) < 0.5:
        first = frame.index[0] if len(frame) else "none"
        raise InputError(
            f"{path}: neither rows ({first}, …) nor columns are named by Ensembl ids or symbols: "
            "name the genes so, or write it as .h5ad"
        )
    frame = frame.T if down > across else frame
    if any(kind.kind not in "iuf" for kind in frame.dtypes):
        raise InputError(f"{path} holds texts beside counts: leave only counts and the names of cells and genes")
    names = {"obs": pd.DataFrame(index=frame.index.astype(str)), "var": pd.DataFrame(index=frame.columns.astype(str))}
    side = "rows" if down > across else "columns"
    return anndata.AnnData(sp.csr_matrix(frame.to_numpy()), **names), [f"genes are in {side}"]


def _separator(path: Path) -> str:
    if (name := path.name.lower()).endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        return "\t" if ".tsv" in name else ","
    with gzip.open(path, "rt") if name.endswith(".gz") else path.open() as file:
        line = file.readline(1 << 20)
    return max("\t, ", key=line.count)  # a .txt may hold any; ties go to the tab


def _share(labels: Any) -> float:
    return sum(bool(_ENSEMBL.match(str(label))) for label in labels) / max(1, len(labels))


def _housekeeping(labels: Any) -> float:
    """Share of the genes of nearly every cell that are there by symbol, in any case: a half and more on the side of genes."""
    return len(HOUSEKEEPING & {str(label).upper() for label in labels}) / len(HOUSEKEEPING)
