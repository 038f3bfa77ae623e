"""Genes and their tokens: the vocabulary table, one row per token. It never renumbers a token."""

import collections
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.foreign import read_mapping
from rankshift.screen.files.one_line import first_line
from rankshift.screen.files.seal import check_seal, sealed_parquet
from rankshift.screen.files.text_file import readable
from rankshift.screen.genes.framing import FrameTokens

PAD, MASK, CLS, EOS = "<pad>", "<mask>", "<cls>", "<eos>"
_VERSION = re.compile(
    r"(?<=\d{6})\.\d+$"
)  # the version of an accession number; the end of F22B7.10, a worm's gene, is none
_TABLE = pa.schema(
    [
        pa.field("token", pa.int32(), nullable=False),
        pa.field("ensembl_id", pa.string(), nullable=False),
        pa.field("median", pa.float64()),
        pa.field("symbol", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Special:
    """Tokens that are not genes. `cls` and `eos` exist together (generation v2) or not at all (v1)."""

    pad: int
    mask: int
    cls: int | None = None
    eos: int | None = None

    def __post_init__(self) -> None:
        if (self.cls is None) != (self.eos is None):
            have, lack = (EOS, CLS) if self.cls is None else (CLS, EOS)
            raise InputError(f"vocabulary has {have} but no {lack}: give the vocabulary the model was trained with")


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """Tokens 0..n-1 with their Ensembl ids, medians of the rank value encoding and symbols, in token order.

    token: int32 (n,). ensembl_id: n names, specials included. median: float64 (n,), in counts per 10,000, NaN where
    there is none. symbol: n names or None. Raises InputError when tokens have gaps, names repeat, a special is missing
    or a median is not a positive number.
    """

    token: np.ndarray
    ensembl_id: list[str]
    median: np.ndarray
    symbol: list[str | None]

    def __post_init__(self) -> None:
        n = len(self.ensembl_id)
        if not (len(self.token) == len(self.median) == len(self.symbol) == n):
            raise ValueError("columns of a vocabulary differ in length")
        order = np.argsort(self.token, kind="stable")
        token = np.asarray(self.token)[order]
        wrong = np.flatnonzero(token != np.arange(n))
        if len(wrong):
            raise InputError(
                f"vocabulary tokens must be 0..{n - 1}, each once, but {int(token[wrong[0]])} stands where "
                f"{wrong[0]} should: give the complete vocabulary of the model"
            )
        object.__setattr__(self, "token", token.astype(np.int32))
        object.__setattr__(self, "ensembl_id", [self.ensembl_id[i] for i in order])
        object.__setattr__(self, "median", np.asarray(self.median, np.float64)[order])
        object.__setattr__(self, "symbol", [self.symbol[i] for i in order])
        repeated = [name for name, count in collections.Counter(self.ensembl_id).items() if count > 1]
        if repeated:
            raise InputError(
                f"vocabulary names {repeated[0]} twice ({len(repeated)} such names): each gene has one token"
            )
        bad = np.flatnonzero(~np.isnan(self.median) & ~((self.median > 0) & (self.median < np.inf)))
        if len(bad):
            raise InputError(
                f"median of {self.ensembl_id[bad[0]]} is {self.median[bad[0]]:g} ({len(bad)} such genes): "
                "medians of non-zero counts are positive, leave out genes without one"
            )
        _ = self.special

    @property
    def size(self) -> int:
        """Number of tokens, specials included."""
        return len(self.ensembl_id)

    @cached_property
    def special(self) -> Special:
        """The special tokens; <pad> and <mask> must exist."""
        at = {name: token for token, name in enumerate(self.ensembl_id) if name in (PAD, MASK, CLS, EOS)}
        for name in (PAD, MASK):
            if name not in at:
                raise InputError(f"vocabulary has no {name}: give the vocabulary the model was trained with")
        return Special(pad=at[PAD], mask=at[MASK], cls=at.get(CLS), eos=at.get(EOS))

    @cached_property
    def frame_tokens(self) -> FrameTokens:
        """The special tokens that stand around the genes of a list."""
        return FrameTokens.of({name: token for token, name in enumerate(self.ensembl_id) if not self.is_gene[token]})

    @property
    def gene_of(self) -> list[str]:
        """Ensembl id (or the special's name) by token."""
        return self.ensembl_id

    @property
    def symbol_of(self) -> list[str | None]:
        """Symbol by token, None where unknown."""
        return self.symbol

    @cached_property
    def is_gene(self) -> np.ndarray:
        """bool (n,): which tokens are genes, that is not written in angle brackets."""
        return np.array([not name.startswith("<") for name in self.ensembl_id])

    @cached_property
    def by_id(self) -> dict[str, int]:
        """Token by upper-case Ensembl id, specials left out."""
        return {plain_id(name): token for token, name in enumerate(self.ensembl_id) if self.is_gene[token]}

    @cached_property
    def by_symbol(self) -> dict[str, int]:
        """Token by symbol, for symbols that name exactly one gene."""
        count = collections.Counter(self.symbol)
        return {name: token for token, name in enumerate(self.symbol) if name is not None and count[name] == 1}

    @cached_property
    def by_folded_symbol(self) -> dict[str, int]:
        """Token by symbol in lower case, for symbols that then, too, name exactly one gene: for what a person typed."""
        folded = [None if name is None else name.casefold() for name in self.symbol]
        count = collections.Counter(folded)
        return {name: token for token, name in enumerate(folded) if name is not None and count[name] == 1}

    @cached_property
    def tokens_sha256(self) -> str:
        """Identity of the token numbering alone (medians and symbols do not enter)."""
        return hashlib.sha256("\n".join(self.ensembl_id).encode()).hexdigest()

    def token_of(self, gene: str) -> int | None:
        """Token of a gene given as Ensembl id (any case, with or without version) or unambiguous symbol, else None.

        >>> v = make_vocabulary({"<pad>": 0, "<mask>": 1, "ENSG00000000003": 2}, names={"TSPAN6": "ENSG00000000003"})
        >>> v.token_of("ENSG00000000003.15"), v.token_of("TSPAN6"), v.token_of("<pad>")
        (2, 2, None)
        """
        token = self.by_id.get(plain_id(gene))
        return self.by_symbol.get(gene) if token is None else token

    def write(self, path: Path, *, sealed: bool = False) -> None:
        """Write vocabulary.parquet: token, ensembl_id, median (null where none), symbol (null where none).

        sealed: the file carries its own checksum (module `seal`), where nothing beside it holds one.
        """
        median = pa.array(self.median, pa.float64(), from_pandas=True)
        columns = [
            pa.array(self.token, pa.int32()),
            pa.array(self.ensembl_id),
            median,
            pa.array(self.symbol, pa.string()),
        ]
        with replacing(Path(path)) as temporary:
            table = pa.Table.from_arrays(columns, schema=_TABLE)
            if sealed:
                with sealed_parquet(temporary, table.schema, compression="zstd") as file:
                    file.write_table(table)
            else:
                pq.write_table(table, temporary, compression="zstd")

    @staticmethod
    def read(path: Path) -> "Vocabulary":
        """Read vocabulary.parquet; columns token and ensembl_id are required, median and symbol optional."""
        path = Path(path)
        try:
            check_seal(readable(path), pq.read_metadata(path).metadata, "make the vocabulary again")
            table = pq.read_table(path)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a readable Parquet file: {first_line(error)}") from error
        lack = [name for name in ("token", "ensembl_id") if name not in table.column_names]
        if lack:
            raise InputError(
                f"{path} has no column {lack[0]}, only {', '.join(table.column_names)}: give a vocabulary table"
            )
        n = table.num_rows
        try:
            token = table.column("token").cast(pa.int32())
            name = table.column("ensembl_id").cast(pa.string())
            median = table.column("median").cast(pa.float64()).to_numpy() if "median" in table.column_names else None
            symbol = table.column("symbol").cast(pa.string()).to_pylist() if "symbol" in table.column_names else None
        except pa.ArrowException as error:
            raise InputError(f"{path}: column of the wrong type: {first_line(error)}") from error
        if token.null_count or name.null_count:
            raise InputError(f"{path} has rows without token or ensembl_id: every row needs both")
        n = table.num_rows
        return Vocabulary(
            token=token.to_numpy(),
            ensembl_id=name.to_pylist(),
            median=np.full(n, np.nan) if median is None else median,
            symbol=[None] * n if symbol is None else symbol,
        )


def plain_id(gene: str) -> str:
    """An Ensembl id in upper case without its version: `ensg00000000003.15` is ENSG00000000003."""
    name = gene.strip().upper()
    return _VERSION.sub("", name) if "." in name else name


def make_vocabulary(
    tokens: Mapping[str, Any], medians: Mapping[str, Any] | None = None, names: Mapping[str, Any] | None = None
) -> Vocabulary:
    """A vocabulary from {gene: token}, {gene: median} and {symbol: gene}; genes outside `tokens` are left out.

    If a gene has several symbols, the first is kept. Raises InputError when a value has the wrong type, or when medians
    or names share no gene with the tokens.
    """
    genes = list(tokens)
    for gene in genes:
        if not _is_int(tokens[gene]):
            raise InputError(f"token of {gene} is {tokens[gene]!r}, not an integer: the vocabulary is {{gene: token}}")
    median = np.full(len(genes), np.nan)
    symbol: list[str | None] = [None] * len(genes)
    row = {gene: i for i, gene in enumerate(genes)}
    if medians is not None:
        for gene, value in medians.items():
            if gene in row:
                try:
                    median[row[gene]] = float(value)
                except (TypeError, ValueError, OverflowError):
                    raise InputError(
                        f"median of {gene} is {value!r}, not a number: medians are {{gene: median}}"
                    ) from None
        _must_share(row, medians, "medians", "{gene: median}")
    if names is not None:
        for name, gene in names.items():
            if gene in row and symbol[row[gene]] is None:
                symbol[row[gene]] = str(name)
        _must_share(row, names.values(), "names", "{symbol: Ensembl id}")
    return Vocabulary(
        token=np.array([int(tokens[gene]) for gene in genes]), ensembl_id=genes, median=median, symbol=symbol
    )


def read_vocabulary(path: Path, medians: Path | None = None, names: Path | None = None) -> Vocabulary:
    """A vocabulary from vocabulary.parquet, or from {gene: token} as .json, .csv, .tsv or pickle.

    medians ({gene: median}) and names ({symbol: gene}), in the same forms, fill in or replace those columns.
    """
    path = Path(path)
    more_medians = None if medians is None else read_mapping(medians)
    more_names = None if names is None else read_mapping(names)
    if path.suffix.lower() != ".parquet":
        return make_vocabulary(read_mapping(path), more_medians, more_names)
    table = Vocabulary.read(path)
    if medians is None and names is None:
        return table
    given = make_vocabulary(dict(zip(table.ensembl_id, map(int, table.token), strict=True)), more_medians, more_names)
    return Vocabulary(
        token=table.token,
        ensembl_id=table.ensembl_id,
        median=np.where(np.isnan(given.median), table.median, given.median),
        symbol=[new or old for new, old in zip(given.symbol, table.symbol, strict=True)],
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31


def _must_share(row: Mapping[str, int], genes: Iterable[str], what: str, form: str) -> None:
    if not any(gene in row for gene in genes):
        raise InputError(f"{what} and vocabulary share no gene: expected {form} with Ensembl ids of the same series")
