"""Which gene of a vocabulary each column of a count matrix is: Ensembl ids first, aliases and versions understood.

It never guesses silently: symbols are taken for ids only where most of a column are symbols of the vocabulary, and too few
matches are refused, naming the column of `var` that would match, or the species that the ids are of.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankshift.screen.errors import InputError
from rankshift.screen.genes.vocabulary import Vocabulary, plain_id
from rankshift.screen.tokenizer.rank_value import GeneColumns

# Where ids are looked for: feature_id is the census's, `index` the names of var.
ID_COLUMNS = ("ensembl_id", "gene_ids", "gene_id", "feature_id", "index")
SYMBOL_COLUMNS = ("gene_name", "gene_symbol", "gene_symbols", "symbol", "feature_name")
MOSTLY = 0.5  # more of a column are symbols of the vocabulary: then it holds symbols, without being asked
_ENSEMBL = re.compile(r"ENS[A-Z]*\d{6,}")
_PREFIX = re.compile(r"(ENS[A-Z]*G(?=\d{6})|WBGENE(?=\d{6})|FBGN(?=\d{6}))")
SPECIES = {
    "ENSG": "human",
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSMMUG": "rhesus macaque",
    "ENSMFAG": "crab-eating macaque",
    "ENSPTRG": "chimpanzee",
    "ENSSSCG": "pig",
    "ENSBTAG": "cow",
    "ENSCAFG": "dog",
    "ENSGALG": "chicken",
    "ENSDARG": "zebrafish",
    "WBGENE": "worm",
    "FBGN": "fly",
}  # by the beginning of a gene's stable id, upper case (Ensembl, WormBase, FlyBase)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Match:
    """Tokens of the columns of one file, int32 (C,), -1 where there is none, and how they were found."""

    label: str  # the column of var
    token: np.ndarray
    by_alias: int = 0
    by_symbol: int = 0
    ambiguous: int = 0  # symbols that name several genes

    @property
    def mapped(self) -> int:
        """Columns that have a token."""
        return int((self.token >= 0).sum())

    @property
    def summed(self) -> int:
        """Columns whose counts are added to another column of the same gene."""
        return self.mapped - len(np.unique(self.token[self.token >= 0]))


def var_labels(var: Any, column: str) -> list[str]:
    """The values of a column of var, or of its index, as text."""
    values = var.index if column == "index" and "index" not in var.columns else var[column]
    return [str(value) for value in values]


def match_ids(label: str, ids: Sequence[str], vocabulary: Vocabulary, aliases: Mapping[str, str]) -> Match:
    """Match Ensembl ids, in any case, with or without version; an alias counts before the id itself."""
    known = vocabulary.by_id
    current = {alias: plain_id(gene) for alias, gene in aliases.items()}
    plain = [plain_id(name) for name in ids]
    token = np.array([known.get(current.get(name, name), -1) for name in plain], np.int32)
    return Match(
        label=label, token=token, by_alias=sum(t >= 0 and n in aliases for t, n in zip(token, plain, strict=True))
    )


def match_symbols(label: str, symbols: Sequence[str], vocabulary: Vocabulary) -> Match:
    """Match gene symbols as they are written; a symbol of several genes matches none."""
    known = vocabulary.by_symbol
    several = {name for name, n in Counter(vocabulary.symbol).items() if name is not None and n > 1}
    token = np.array([known.get(name, -1) for name in symbols], np.int32)
    found = int((token >= 0).sum())
    return Match(label=label, token=token, by_symbol=found, ambiguous=sum(name in several for name in symbols))


def match_columns(
    path: Any, var: Any, vocabulary: Vocabulary, aliases: Mapping[str, str], least: float, column: str | None = None
) -> Match:
    """Find the genes of a file's columns in the named column of var, or in the first of ID_COLUMNS that matches.

    least is the share of columns that must have a token. Raises InputError saying how many matched and what would.
    """
    if not 0 <= least <= 1:
        raise InputError(f"the least share of mapped genes is {least:g}: give 0 to 1")
    if column is not None:
        if column not in var.columns and column != "index":
            raise InputError(
                f"{path}: var has no column {column!r}: it has {', '.join(map(str, var.columns))} and index"
            )
        labels = var_labels(var, column)
        tried = [match_ids(column, labels, vocabulary, aliases), match_symbols(column, labels, vocabulary)]
        best = max(tried, key=lambda match: match.mapped)
    else:
        present = [name for name in ID_COLUMNS if name in var.columns or name == "index"]
        tried = []
        for name in present:
            tried.append(match_ids(name, var_labels(var, name), vocabulary, aliases))
            if tried[-1].mapped >= max(1, least * len(var)):
                return tried[-1]
        by_name = ["index", *(name for name in SYMBOL_COLUMNS if name in var.columns)]
        named = [match_symbols(name, var_labels(var, name), vocabulary) for name in by_name]
        found = max(named, key=lambda match: match.mapped)
        if found.mapped > MOSTLY * len(var) and found.mapped >= least * len(var):
            return found
        best = max(tried, key=lambda match: match.mapped)
    if best.mapped >= max(1, least * len(var)):
        return best
    share = 100 * best.mapped / max(1, len(var))
    raise InputError(
        f"{path}: {best.mapped} of {len(var)} genes ({share:.2g} %) in var {best.label!r} are in the vocabulary, "
        f"at least {100 * least:g} % must be: {_advice(var, vocabulary, aliases, best)}"
    )


def _advice(var: Any, vocabulary: Vocabulary, aliases: Mapping[str, str], best: Match) -> str:
    columns = [*map(str, var.columns), "index"]
    labels = {name: var_labels(var, name) for name in columns}
    matches = [match_ids(name, labels[name], vocabulary, aliases) for name in columns]
    matches += [match_symbols(name, labels[name], vocabulary) for name in columns]
    better = max(matches, key=lambda match: match.mapped)
    if better.mapped > 2 * best.mapped:
        kind = "symbols" if better.by_symbol else "ids"
        if better.mapped >= len(var) / 10:  # mice share a symbol or two with men by chance
            return f"column {better.label!r} holds {kind} of {better.mapped} genes, give --gene-column {better.label}"
    for name in columns:
        if (said := _other_names(name, labels[name], vocabulary)) is not None:
            return said
    if not vocabulary.by_symbol:
        return "give Ensembl ids of the bundle's organism, or a bundle with --names to use symbols"
    return "give Ensembl ids or symbols of the vocabulary's series"


def _other_names(column: str, labels: Sequence[str], vocabulary: Vocabulary) -> str | None:
    """What a column that does not match holds instead: ids of another species, ids inside of names, names in another case."""
    theirs, ours = species_of(labels), species_of(vocabulary.ensembl_id)
    if theirs is not None and ours is not None and theirs != ours:
        return (
            f"{column!r} holds ids of {theirs} ({labels[0]}), the vocabulary is of {ours}: take a model of that species, or "
            f"put the ids of {ours} orthologues into a var column and name it with --gene-column"
        )
    inside = [found.group() if (found := _ENSEMBL.search(label.upper())) else "" for label in labels]
    if sum(name in vocabulary.by_id for name in inside) > MOSTLY * len(labels):
        return (
            f"{column!r} holds ids inside of longer names ({labels[0]}): put the ids alone into a var column, as by "
            r"var['ensembl_id'] = var_names.str.extract(r'(ENS[A-Z]*\d+)', expand=False).to_numpy()"
        )
    folded = sum(label.casefold() in vocabulary.by_folded_symbol for label in labels)
    if folded > MOSTLY * len(labels):
        return (
            f"{column!r} holds {folded} symbols in another case ({labels[0]}), as those of mice are: are they of the "
            "vocabulary's species? Then write them as it does, else take a model of theirs"
        )
    return None


def species_of(labels: Sequence[str]) -> str | None:
    """The species whose stable ids most labels are, None where they are others or unknown.

    >>> species_of(["ENSMUSG00000000001", "ENSMUSG00000000028.2"])
    'mouse'
    """
    found = Counter(m.group() for label in labels if (m := _PREFIX.match(label.upper())) is not None)
    prefix, count = found.most_common(1)[0] if found else ("", 0)
    return SPECIES.get(prefix, prefix) if count > MOSTLY * len(labels) else None


def ensembl_column(path: Any, var: Any, column: str | None = None) -> list[str | None]:
    """Ensembl ids of the columns without any vocabulary: from the first of ID_COLUMNS that mostly holds such.

    None for a label that is no Ensembl id (spike-ins, antibodies). A named column is taken as it is.
    """
    if column is not None:
        _must_have(path, var, column)
        return [plain_id(name) for name in var_labels(var, column)]
    for name in ID_COLUMNS:
        if name in var.columns or name == "index":
            ids = [plain_id(label) for label in var_labels(var, name)]
            ensembl = [i if _ENSEMBL.match(i) else None for i in ids]
            if 2 * sum(i is not None for i in ensembl) > len(ids):
                return ensembl
    raise InputError(
        f"{path}: none of {', '.join(ID_COLUMNS)} in var holds Ensembl ids (index begins with {var.index[0]}): "
        "name the column with --gene-column"
    )


def _must_have(path: Any, var: Any, column: str) -> None:
    if column not in var.columns and column != "index":
        raise InputError(f"{path}: var has no column {column!r}: it has {', '.join(map(str, var.columns))} and index")


def gene_columns(match: Match, vocabulary: Vocabulary) -> GeneColumns:
    """Number the genes of a file: those of one column first, those to be summed behind, each in column order."""
    token = match.token
    mapped = np.flatnonzero(token >= 0)
    values, first, inverse, count = np.unique(token[mapped], return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, count > 1))
    number = np.empty(len(values), np.int32)
    number[order] = np.arange(len(values))
    gene = np.full(len(token), -1, np.int32)
    gene[mapped] = number[inverse]
    median = vocabulary.median[values[order]]
    lacking = np.flatnonzero(np.isnan(median))
    if len(lacking):
        example = vocabulary.ensembl_id[values[order][lacking[0]]]
        raise InputError(
            f"{len(lacking)} of {len(values)} genes have no median ({example}): make the bundle with "
            "`rankshift bundle --medians`"
        )
    return GeneColumns(
        gene=gene, token=values[order].astype(np.int32), inverse_median=1 / median, shared=int((count == 1).sum())
    )
