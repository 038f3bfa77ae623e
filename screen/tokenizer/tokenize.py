"""Tokenization: count matrices become token tables, each cell a list of its genes by falling rank value.

It reads counts in blocks and writes as it goes, so memory does not grow with the number of cells. Nothing is dropped
silently: the report counts genes without a token and cells left out, with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rankshift.screen.cells.obs import is_anndata, unified
from rankshift.screen.cells.ragged import offsets_of
from rankshift.screen.cells.select import rows_where
from rankshift.screen.cells.writer import Write, writing
from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import FrameTokens
from rankshift.screen.genes.token_space import TokenSpace
from rankshift.screen.tokenizer.counts import (
    BLOCK_CELLS,
    Block,
    Counts,
    CountsInMemory,
    again,
    filter_pass,
    obs_table,
    row_sums,
    totals,
)
from rankshift.screen.tokenizer.endings import count_files
from rankshift.screen.tokenizer.formats import open_counts
from rankshift.screen.tokenizer.gene_columns import Match, gene_columns, match_columns
from rankshift.screen.tokenizer.rank_value import NO_LIMIT, GeneColumns, cropped_lists, rank_rows

if TYPE_CHECKING:
    from anndata import AnnData

PART = (
    0.5  # files with fewer of the vocabulary's genes are said to be a part: a whole annotation has two thirds and more
)
LEAST_MAPPED = (
    0.10  # a full annotation has 60,000 genes, a vocabulary 20,000: below a tenth the ids are of another kind
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileReport:
    """How the genes of one file were matched, and where its cell totals came from."""

    path: Path
    column: str
    genes: int
    mapped: int
    by_alias: int
    by_symbol: int
    ambiguous: int
    summed: int
    totals: str
    known: int = 0  # genes of the vocabulary

    @property
    def lost(self) -> int:
        """Columns of the file without a token."""
        return self.genes - self.mapped


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeReport:
    """What went into a token table and what did not; `str` gives it as text."""

    out: Path
    cells: int
    written: int
    cropped: int  # lists that reached the input size and may have lost their last genes
    dropped: Mapping[str, int]
    files: tuple[FileReport, ...]
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"{self.out}: {self.written} of {self.cells} cells"]
        lines += [f"  {n} cells dropped: {why}" for why, n in self.dropped.items() if n]
        if self.cropped:
            lines.append(f"  {self.cropped} cells fill the input size")
        for file in self.files:
            how = [
                (file.by_alias, "by alias"),
                (file.by_symbol, "by symbol"),
                (file.summed, "summed into another column"),
            ]
            how += [(file.ambiguous, "ambiguous"), (file.lost, "lost")]
            parts = "".join(f", {n} {what}" for n, what in how if n)
            lines.append(
                f"  {file.path.name}: {file.mapped} of {file.genes} genes mapped by {file.column!r}{parts}; "
                f"totals {file.totals}"
            )
            there = file.mapped - file.summed
            if there < PART * file.known:
                lines.append(
                    f"  {file.path.name}: holds {there:,} of the {file.known:,} genes of the vocabulary: ranks are those of a "
                    "part of the genes; give all that were counted, as before the choice of variable ones"
                )
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Source:
    """One file made ready: which rows pass, what their columns mean, what is kept of obs."""

    path: Path
    open: Callable[[], AbstractContextManager[Counts]]
    keep: np.ndarray  # bool (cells,)
    total: np.ndarray | None
    genes: GeneColumns
    obs: pa.Table  # cell_id and the kept columns
    report: FileReport


def tokenize(
    data: "Path | Sequence[Path] | AnnData",
    bundle: TokenSpace,
    out: Path | Write,
    *,
    keep: Sequence[str] | None = (),
    where: str | None = None,
    input_size: int | None = None,
    min_mapped: float = LEAST_MAPPED,
    gene_column: str | None = None,
    layer: str | None = None,
    keep_uncropped: bool = False,
    chunk_cells: int = BLOCK_CELLS,
    progress: Callable[[int, int], None] | None = None,
) -> TokenizeReport:
    """Write the token table of one or more h5ad or loom files (or folders of them), or of an AnnData, to `out`.

    out: a .parquet or .dataset, or what takes the cells instead of a file. keep: obs columns to carry over, None for all.
    where: SQL condition over the obs columns. input_size: longest list, specials included, by default the model's.
    min_mapped: least share of a file's genes that must be in the vocabulary. gene_column: column of var with Ensembl ids or
    symbols. layer: the matrix that holds counts, `raw`, `X` or a layer's name; None: the first of raw, layers of counts and X
    whose values may be counts. keep_uncropped: write all genes of a cell beside its list, which lets deletions refill from
    below the input limit. progress is called with (cells read, cells in all).
    Raises InputError for files, genes or counts that do not fit; `out` is then left as it was.
    """
    size = _size(bundle, input_size)
    frame = bundle.frame_tokens
    dropped = dict.fromkeys(("not kept by --where", "filter_pass is not 1", "n_counts is 0", "without a known gene"), 0)
    notes: list[str] = []
    sources = _sources(_opened_by(data, layer), bundle, keep, where, min_mapped, gene_column, dropped)
    cells, read, written, cropped = sum(len(source.keep) for source in sources), 0, 0, 0

    def encode(source: _Source, block: Block, write: Write) -> None:
        nonlocal written, cropped
        inside = slice(block.start, block.start + len(block))
        rows = np.flatnonzero(source.keep[inside])
        total = source.total[inside] if source.total is not None else row_sums(block, len(source.genes.gene))
        dropped["n_counts is 0"] += int((total[rows] == 0).sum())
        rows = rows[total[rows] > 0]
        ids, length = rank_rows(
            block.data,
            block.column,
            block.offsets[rows],
            block.offsets[rows + 1],
            total[rows],
            source.genes,
            NO_LIMIT if keep_uncropped else size,
            FrameTokens() if keep_uncropped else frame,
        )
        whole = (ids[: int(length.sum())], length[length > 0]) if keep_uncropped else None
        if keep_uncropped:
            ids, length = cropped_lists(ids, length, size, frame)
        dropped["without a known gene"] += int((length == 0).sum())
        rows, length = rows[length > 0], length[length > 0]
        written += len(rows)
        cropped += int((length == size).sum())
        if len(rows):
            ends = offsets_of(length)
            write(ids, ends, source.obs.take(pa.array(rows + block.start)), whole)

    sink = nullcontext(out) if callable(out) else writing(Path(out), bundle.vocabulary.tokens_sha256)
    with sink as write, ThreadPoolExecutor(1) as behind:
        waiting: Future[None] | None = None
        for source in sources:
            with source.open() as file:
                for block in file.blocks(chunk_cells):  # the next block is read while this one is ranked and written
                    if waiting is not None:
                        waiting.result()
                    waiting = behind.submit(encode, source, block, write)
                    read += len(block)
                    if progress is not None:
                        progress(read, cells)
                notes += file.notes
        if waiting is not None:
            waiting.result()
        if written == 0:
            why = "; ".join(f"{n} {reason}" for reason, n in dropped.items() if n) or "the files hold no cells"
            raise InputError(f"no cell of {cells} is left ({why}): nothing was written")
    return TokenizeReport(
        out=Path("cells") if callable(out) else Path(out),
        cells=cells,
        written=written,
        cropped=cropped,
        dropped=dropped,
        files=tuple(source.report for source in sources),
        notes=tuple(notes),
    )


def _size(bundle: TokenSpace, input_size: int | None) -> int:
    size = bundle.input_size if input_size is None else input_size
    least = bundle.frame_tokens.frame.size + 1
    if not least <= size <= bundle.input_size:
        raise InputError(f"--input-size is {size}: the model takes {least} to {bundle.input_size}")
    return size


def _opened_by(
    data: "Path | Sequence[Path] | AnnData", layer: str | None
) -> list[Callable[[], AbstractContextManager[Counts]]]:
    if is_anndata(data):
        return [partial(CountsInMemory, data, layer)]
    return [partial(open_counts, path, layer) for path in count_files(data)]


def _sources(
    files: Sequence[Callable[[], AbstractContextManager[Counts]]],
    bundle: TokenSpace,
    keep: Sequence[str] | None,
    where: str | None,
    least: float,
    column: str | None,
    dropped: dict[str, int],
) -> list[_Source]:
    """Everything that can be wrong without looking at counts is found here, for all files, before any work is done."""
    prepared = []
    for opens in files:
        with opens() as file:
            obs = obs_table(file)
            passing = filter_pass(file)
            kept = np.zeros(len(file), bool)
            kept[np.arange(len(file)) if where is None else rows_where(obs, where)] = True
            dropped["not kept by --where"] += int((~kept).sum())
            dropped["filter_pass is not 1"] += int((kept & ~passing).sum())
            total = totals(file)
            match = match_columns(file.path, file.var, bundle.vocabulary, bundle.aliases, least, column)
            prepared.append(
                _Source(
                    path=file.path,
                    open=again(file, opens, len(files) == 1),
                    keep=kept & passing,
                    total=total,
                    genes=gene_columns(match, bundle.vocabulary),
                    obs=_kept_columns(file.path, obs, keep),
                    report=_file_report(file.path, match, total, int(bundle.vocabulary.is_gene.sum())),
                )
            )
    tables = unified([source.path for source in prepared], [source.obs for source in prepared])
    return [replace(source, obs=table) for source, table in zip(prepared, tables, strict=True)]


def _file_report(path: Path, match: Match, total: np.ndarray | None, known: int) -> FileReport:
    return FileReport(
        path=path,
        column=match.label,
        genes=len(match.token),
        mapped=match.mapped,
        by_alias=match.by_alias,
        by_symbol=match.by_symbol,
        ambiguous=match.ambiguous,
        summed=match.summed,
        totals="summed over all genes (obs has no n_counts)" if total is None else "from obs n_counts",
        known=known,
    )


def _kept_columns(path: Path, obs: pa.Table, keep: Sequence[str] | None) -> pa.Table:
    if keep is None:
        return obs.select([name for name in obs.column_names if name not in ("input_ids", "length")])
    for name in keep:
        if name in ("input_ids", "length"):
            raise InputError(f"--keep {name}: the token table has a column of that name, rename it in obs")
        if name not in obs.column_names:
            raise InputError(f"--keep {name}: {path} has no such obs column, only {', '.join(obs.column_names)}")
    return obs.select(list(dict.fromkeys(["cell_id", *keep])))
