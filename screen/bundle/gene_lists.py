"""Genes as users name them: all, Ensembl ids or symbols, a file of them, or several files, each a panel.

Genes that the vocabulary does not know are named, and a list of which none is known is refused.
"""

from collections.abc import Sequence
from pathlib import Path

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.errors import InputError


def resolve_genes(genes: str | Sequence[str], bundle: Bundle) -> tuple[tuple[int, ...] | None, list[str]]:
    """Tokens of the genes named (None for all), and the names the vocabulary does not know. Repeated genes count once."""
    if isinstance(genes, str) and genes == "all":
        return None, []
    names = gene_names(genes) if isinstance(genes, str) else list(genes)
    tokens = {name: bundle.vocabulary.token_of(name) for name in names}
    unknown = [name for name, token in tokens.items() if token is None]
    known = tuple(dict.fromkeys(token for token in tokens.values() if token is not None))
    if not known:
        shown = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        raise InputError(
            f"none of the {len(names)} genes is in the vocabulary ({shown}): give Ensembl ids of the bundle"
        )
    return known, unknown


def gene_names(text: str) -> list[str]:
    """Genes of a --genes option: separated by commas, or those of the file or files of these names."""
    files = _files(text)
    return [name for file in files for name in _lines(file)] if files else _parts(text)


def panels_of(genes: str | Sequence[str]) -> dict[str, list[str]]:
    """{name of the file without its ending: its genes} where --genes names several files, else nothing."""
    files = _files(genes) if isinstance(genes, str) else []
    if len(files) < 2:
        return {}
    panels = {file.stem: _lines(file) for file in files}
    if len(panels) < len(files):
        names = ", ".join(file.stem for file in files)
        raise InputError(f"panels are told apart by their file names, these are {names}: rename one")
    return panels


def _files(text: str) -> list[Path]:
    """The files named, if all that is named are files."""
    if Path(text).is_file():
        return [Path(text)]
    paths = [Path(part) for part in _parts(text)]
    there = [path for path in paths if path.is_file()]
    if there and len(there) < len(paths):
        other = next(path for path in paths if path not in there)
        raise InputError(f"--genes names the file {there[0]} beside {other}, which is none: give either files or genes")
    return there


def _parts(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _lines(path: Path) -> list[str]:
    """First column of a file: one gene a line, lines that begin with # left out."""
    lines = path.read_text().splitlines()
    return [line.replace(",", "\t").split("\t")[0].strip() for line in lines if line.strip() and line[0] != "#"]
