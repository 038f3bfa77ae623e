"""Which paths hold counts, told by their names and by what lies in a folder. Nothing is opened here."""

from collections.abc import Sequence
from pathlib import Path

from rankshift.screen.errors import InputError

ENDINGS = (".h5ad", ".loom", ".zarr", ".h5", ".h5mu")  # those that a folder is searched for
TABLES = tuple(f".{kind}{packed}" for kind in ("csv", "tsv", "txt") for packed in ("", ".gz"))
MATRIX = ("matrix.mtx", "matrix.mtx.gz")
OF_R = (".rds", ".rda", ".rdata", ".robj", ".h5seurat")
GENES = ("rna", "gex", "RNA", "GEX")  # usual names of the modality that holds genes
PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".tar", ".tgz")


def holds_counts(path: Path) -> bool:
    """Is this, by its name or by what lies in the folder, a file of counts, and so no token table?"""
    refuse_foreign(path)
    name = path.name.lower()
    folder = path.is_dir() and (is_zarr(path) or mtx_of(path) is not None)
    return folder or name in MATRIX or name.endswith((*ENDINGS, *TABLES))


def refuse_foreign(path: Path) -> None:
    """Raise InputError for what is by its name no format of ours, with the way to one; folders are left alone."""
    name = path.name.lower()
    if path.is_dir() or name in MATRIX or name.endswith((*ENDINGS, *TABLES)):
        return
    if name.endswith(OF_R):
        raise InputError(
            f"{path} is an object of R: write it there as .h5ad (anndataR::write_h5ad) or as a 10x folder "
            "(DropletUtils::write10xCounts), and give that"
        )
    if name.endswith((".mtx", ".mtx.gz")):
        raise InputError(
            f"{path} has no names of genes and cells: put it as matrix.mtx beside features.tsv and barcodes.tsv into a "
            "folder, and give the folder"
        )
    if name.endswith(PACKED):
        raise InputError(f"{path} is compressed as a whole: unpack it first (gunzip, unzip, tar -xf)")


def count_files(data: Path | Sequence[Path]) -> list[Path]:
    """The files of counts meant: a file, a folder that is one matrix, a folder of them (by name), or several of these."""
    paths = [Path(data)] if isinstance(data, (str, Path)) else [Path(path) for path in data]
    files: list[Path] = []
    for path in paths:
        refuse_foreign(path)
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


def modality_of(names: Sequence[str]) -> str | None:
    """Which of these modalities holds genes: the one that is called so, or the only one."""
    return next((name for name in GENES if name in names), names[0] if len(names) == 1 else None)
