"""Which paths hold counts, told by their names and by what lies in a folder. Nothing is opened here."""

from collections.abc import Sequence
from pathlib import Path

from rankshift.screen.errors import InputError

ENDINGS = (".h5ad", ".loom", ".zarr", ".h5", ".h5mu")  # those that a folder is searched for
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
MATRIX = ("matrix.mtx", "matrix.mtx.gz")


def holds_counts(path: Path) -> bool:
    """Is this, by its name or by what lies in the folder, a file of counts, and so no token table?"""
    return path.name.lower().endswith((*ENDINGS, *TABLES)) or (
        path.is_dir() and (is_zarr(path) or mtx_of(path) is not None)
    )


def count_files(data: Path | Sequence[Path]) -> list[Path]:
    """The files of counts meant: a file, a folder that is one matrix, a folder of them (by name), or several of these."""
    paths = [Path(data)] if isinstance(data, (str, Path)) else [Path(path) for path in data]
    files: list[Path] = []
    for path in paths:
        inside = [path]
        if path.is_dir() and not holds_counts(path):
            inside = sorted(p for p in path.iterdir() if p.suffix in ENDINGS)
        if not inside:
            raise InputError(
                f"{path} holds no .h5ad or .loom file, nor .zarr, .h5, .h5mu or matrix.mtx: give count matrices"
            )
        files += inside
    if not files:
        raise InputError("no count file is given: give one or more .h5ad files")
    return files


def is_zarr(folder: Path) -> bool:
    """Is the folder an array store of zarr?"""
    return any((folder / name).exists() for name in (".zgroup", "zarr.json"))


def mtx_of(folder: Path) -> Path | None:
    """The matrix of a folder of Cell Ranger, None where there is none."""
    return next((folder / name for name in MATRIX if (folder / name).is_file()), None)
