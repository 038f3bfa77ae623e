"""Genes as users name them: all, Ensembl ids or symbols, a file of them, several files, each a panel, or a .gmt of gene sets.

Genes that the bundle does not know are named, and a list of which none is known is refused. So is a file that could be read in
two ways: a table whose second column holds other genes is no list of its first.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.errors import InputError
from rankshift.screen.files.json_file import read_json
from rankshift.screen.files.text_file import is_file, read_text

NAMED = 10  # unknown genes that a note names
ENDINGS = (
    ".txt",
    ".csv",
    ".tsv",
    ".tab",
    ".json",
    ".list",
    ".lst",
    ".genes",
    ".gmt",
    ".bed",
    ".xls",
    ".xlsx",
    ".parquet",
)


def resolve_genes(genes: str | Sequence[str], bundle: Bundle) -> tuple[tuple[int, ...] | None, list[str]]:
    """Tokens of the genes named (None for all), and the names the bundle does not know. Repeated genes count once."""
    if isinstance(genes, str) and genes == "all":
        return None, []
    names = gene_names(genes, bundle) if isinstance(genes, str) else [str(gene) for gene in genes]
    tokens = {name: _typed(name, bundle) for name in names}
    unknown = [name for name, token in tokens.items() if token is None]
    known = tuple(dict.fromkeys(token for token in tokens.values() if token is not None))
    if not known:
        shown = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        kinds = (
            "ids or symbols" if bundle.vocabulary.by_symbol else "ids, it has no symbols (`rankshift bundle --names`)"
        )
        nearest = ", ".join(near for name in unknown[:3] if (near := nearest_symbol(name, bundle)) is not None)
        fix = f"did you mean {nearest}?" if nearest else f"give Ensembl {kinds} of the bundle"
        raise InputError(f"none of the {len(names)} genes is in the vocabulary ({shown}): {fix}")
    return known, unknown


def _typed(name: str, bundle: Bundle) -> int | None:
    """Token of a gene that a person typed: a symbol counts in any case. Words in a table do not: `max` there is no MAX."""
    token = bundle.token_of(name)
    return bundle.vocabulary.by_folded_symbol.get(name.casefold()) if token is None else token


def said_of(unknown: Sequence[str], bundle: Bundle) -> str:
    """A note on genes that are left out, each with the symbol that was perhaps meant."""
    named = []
    for name in unknown[:NAMED]:
        near = nearest_symbol(name, bundle)
        named.append(name if near is None else f"{name} (did you mean {near}?)")
    more = ", …" if len(unknown) > NAMED else ""
    return f"{len(unknown)} genes are not in the vocabulary and are left out: {', '.join(named)}{more}"


def nearest_symbol(name: str, bundle: Bundle) -> str | None:
    """The symbol that is written most like a name, first of all with the same letters; None where none is near."""
    symbols = {symbol.upper(): symbol for symbol in bundle.vocabulary.by_symbol}
    wanted = name.upper()
    near = get_close_matches(wanted, symbols, n=5)
    best = next((found for found in near if sorted(found) == sorted(wanted)), near[0] if near else None)
    return None if best is None else symbols[best]


def gene_names(text: str, bundle: Bundle) -> list[str]:
    """Genes of a --genes option: separated by commas, or those of the file or files of these names."""
    files = _files(text)
    return [name for file in files for name in listed(file, bundle)] if files else _parts(text)


def panels_of(genes: str | Sequence[str], bundle: Bundle) -> dict[str, list[str]]:
    """Genes by panel where --genes names several files, by their names without ending, or a .gmt, by its sets; else none."""
    files = _files(genes) if isinstance(genes, str) else []
    if len(files) < 2 and not any(is_gmt(file) for file in files):
        return {}
    panels: dict[str, list[str]] = {}
    for file in files:
        sets = gene_sets(file) if is_gmt(file) else {file.stem: listed(file, bundle)}
        if twice := panels.keys() & sets.keys():
            raise InputError(f"panels are told apart by their names, two are called {min(twice)}: rename one")
        panels |= sets
    return panels


def is_gmt(path: Path) -> bool:
    """Is this a file of gene sets, a set a line: name, description, genes, between tabs (the format of MSigDB)?"""
    return path.suffix.lower() == ".gmt"


def gene_sets(path: Path) -> dict[str, list[str]]:
    """The genes of every set of a .gmt, by the name of the set; raises InputError on a line that is none."""
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name, *rest = (field.strip() for field in line.split("\t"))
        genes = [gene for gene in rest[1:] if gene]
        if not name and not genes:
            continue
        if not name or not genes:
            raise InputError(
                f"{path}: line {number} has no genes: a .gmt has a set a line, as name, description, genes between tabs"
            )
        if name in sets:
            raise InputError(f"{path} has two sets called {name}: rename one")
        sets[name] = genes
    if not sets:
        raise InputError(f"{path} names no gene set: a .gmt has a set a line, as name, description, genes between tabs")
    return sets


def listed(path: Path, bundle: Bundle) -> list[str]:
    """Genes of a file: one a line, or several on one; or the first column of a table, where the others hold no other genes.

    What follows a # is left out. A .json holds a list of names, a .gmt sets of them.
    """
    if is_gmt(path):
        return list(dict.fromkeys(gene for genes in gene_sets(path).values() for gene in genes))
    if path.suffix.lower() == ".json":
        names = read_json(path)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f'{path} is not a list of gene names: give ["ENSG…", …], or one gene a line')
        return list(names)
    lines = [_fields(line.split("#")[0]) for line in read_text(path).splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise InputError(f"{path} names no gene: give one gene a line")
    several = [line for line in lines if len({bundle.token_of(name) for name in line} - {None}) > 1]
    if not several:
        return [line[0] for line in lines]
    if len(lines) == 1 or len({len(line) for line in lines}) > 1:
        return [name for line in lines for name in line]
    raise InputError(
        f"{path} has {len(several[0])} genes on a line ({', '.join(several[0][:3])}), and {len(lines)} lines that could be a "
        "table: give one gene a line"
    )


def _files(text: str) -> list[Path]:
    """The files named, if all that is named are files."""
    if is_file(Path(text)):
        return [Path(text)]
    paths = [Path(part) for part in _parts(text)]
    there = [path for path in paths if is_file(path)]
    if there and len(there) < len(paths):
        other = next(path for path in paths if path not in there)
        raise InputError(f"--genes names the file {there[0]} beside {other}, which is none: give either files or genes")
    for path in paths if not there else ():
        if path.suffix.lower() in ENDINGS or "/" in str(path):
            raise InputError(f"--genes names {path}, which is no file that is there: check the path")
    return there


def _parts(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _fields(line: str) -> list[str]:
    """What stands on a line, without quotes."""
    return [part for part in (field.strip("\"'") for field in re.split(r"[\s,;]+", line)) if part]
