"""Cells from wherever a screen may take them: token tables, cells in memory, count files or an AnnData tokenized in memory.

It never changes the AnnData it is given.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.obs import is_anndata
from rankshift.screen.cells.ragged import offsets_of
from rankshift.screen.cells.stored import SpooledCells
from rankshift.screen.errors import InputError, redacted
from rankshift.screen.files.object_store import everywhere, fetched
from rankshift.screen.genes.token_space import TokenSpace
from rankshift.screen.tokenizer.endings import holds_counts, modality_of

if TYPE_CHECKING:
    from anndata import AnnData

# What a screen takes: a token table, several or folders of them, cells in memory, or an AnnData.
CellSource: TypeAlias = "Path | str | Sequence[Path | str] | Cells | AnnData"


def tokenize(
    data: "AnnData | Path | str | Sequence[Path | str]",
    bundle: TokenSpace | Path | str,
    *,
    keep: Sequence[str] | None = None,
    where: str | None = None,
    input_size: int | None = None,
    min_mapped: float = 0.1,
    gene_column: str | None = None,
    layer: str | None = None,
    keep_uncropped: bool = False,
) -> Cells:
    """Rank lists of an AnnData in memory, or of count files, as cells in memory; `write` of them makes a token table.

    keep: obs columns to carry over, by default all; the other keywords are the options of `rankshift tokenize`. Notes of the
    cells say what was left out.

    >>> tokenize(adata, "bundle", where="tissue = 'heart'").write("cells.parquet")  # doctest: +SKIP
    """
    # Start-up time: a screen of a token table must not wait for anndata and scipy.
    from rankshift.screen.cells.uncropped import Uncropped, split_off
    from rankshift.screen.tokenizer.tokenize import tokenize as rank

    data = _modality(data)
    if not (is_anndata(data) or isinstance(data, str | Path | list | tuple)):
        raise InputError(f"cells are a {type(data).__name__}: {_way_out(data)}")
    opened = Bundle.open(Path(bundle)) if isinstance(bundle, str | Path) else bundle
    frame = opened.frame_tokens.frame
    lists: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    tables: list[pa.Table] = []
    below: list[Uncropped] = []

    def gather(
        ids: np.ndarray, offsets: np.ndarray, obs: pa.Table, whole: tuple[np.ndarray, np.ndarray] | None
    ) -> None:
        lists.append(ids.copy())
        lengths.append(np.diff(offsets))
        tables.append(obs)
        if whole is not None:
            below.append(split_off(Path("cells"), ids, lengths[-1], *whole, frame, opened.vocabulary))

    source: Any = [Path(p) for p in data] if isinstance(data, list | tuple) else data
    report = rank(
        source,
        opened,
        gather,
        keep=keep,
        where=where,
        input_size=input_size,
        min_mapped=min_mapped,
        gene_column=gene_column,
        layer=layer,
        keep_uncropped=keep_uncropped,
    )
    return Cells(
        ids=np.concatenate(lists),
        offsets=offsets_of(np.concatenate(lengths)),
        obs=pa.concat_tables(tables),
        frame=frame,
        notes=tuple(str(report).splitlines()[1:]),
        below=Uncropped.joined(below) if below else None,
    )


def cells_of(
    cells: CellSource,
    bundle: TokenSpace,
    *,
    below: bool = False,
    gene_column: str | None = None,
    layer: str | None = None,
) -> Cells | SpooledCells:
    """Cells from a token table or several, from memory, or from counts, which are tokenized with all of their obs.

    Token tables need not fit in memory. gene_column, layer: of counts, as for `tokenize`; refused beside cells that are
    tokenized already.
    """

    def ranked(counts: Any) -> Cells:
        try:
            return tokenize(counts, bundle, keep_uncropped=below, gene_column=gene_column, layer=layer)
        except InputError as error:  # a screen calls the hidden layer --layer
            raise InputError(str(error).replace("--layer", "--counts-layer")) from error

    if is_anndata(cells := _modality(cells)):
        return ranked(cells)
    if not isinstance(cells, Cells) and not isinstance(cells, str | Path | list | tuple):
        raise InputError(f"cells are a {type(cells).__name__}: {_way_out(cells)}")
    given: Sequence[Path | str] = [cells] if isinstance(cells, str | Path) else ()
    places = [fetched(place) for place in (cells if isinstance(cells, list | tuple) else given)]
    counts = [holds_counts(place) for place in places]
    if places and all(counts):
        return ranked(places)
    for name, value in {"gene-column": gene_column, "counts-layer": layer}.items():
        if value is not None:
            raise InputError(f"--{name} {value} is for counts, {name_of(cells)} is tokenized already: leave it out")
    if isinstance(cells, Cells):
        return cells.checked(bundle)
    if any(counts):
        place = places[counts.index(True)]
        raise InputError(f"{place} holds counts, beside token tables: tokenize it first")
    return SpooledCells.read(places, bundle, below=below)


def _modality(cells: Any) -> Any:
    """The AnnData of a MuData that holds genes, where its name says which; anything else as it is."""
    name = modality_of(list(cells.mod)) if type(cells).__name__ == "MuData" else None
    return cells if name is None else cells.mod[name]


def _way_out(cells: Any) -> str:
    if type(cells).__name__ == "MuData":
        there = ", ".join(map(repr, cells.mod))
        return f"none of its modalities ({there}) is called rna: give the one with the genes, as data[NAME]"
    return "give a token table, several in a list, an AnnData, or Cells"


def places_of(cells: CellSource) -> tuple[str, ...]:
    """The files or URLs that cells come from, absolute and without keys; none of cells in memory."""
    places = [cells] if isinstance(cells, str | Path) else cells if isinstance(cells, list | tuple) else []
    return tuple(redacted(everywhere(place)) for place in places)


def name_of(cells: CellSource) -> str:
    """Where cells come from, for a manifest and for messages."""
    if isinstance(cells, str | Path):
        return redacted(cells)
    return (
        redacted(", ".join(map(str, cells))) if isinstance(cells, list | tuple) else f"{type(cells).__name__} in memory"
    )
