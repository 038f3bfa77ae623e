"""`rankshift embed`: embeddings of cells or genes to Parquet or AnnData, or one vector per state of cells to states.json.

It reads, chooses cells, writes and reports; the vectors come from `rankshift.screen.embed`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.jobs.executor.embedding_work import embed_on
from rankshift.jobs.executor.registry import executor
from rankshift.jobs.show.colouring import Colouring
from rankshift.jobs.show.embedding_map import draw_map
from rankshift.jobs.show.heat_map import draw_heat_map
from rankshift.jobs.show.pictures import Pictures
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.bundle.gene_lists import resolve_genes
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.labels import labels_of
from rankshift.screen.cells.select import rows_where, select
from rankshift.screen.embed.cell_embeddings import check_alone, check_level
from rankshift.screen.embed.embedding_file import Embeddings, check_file, stamped, with_vectors
from rankshift.screen.embed.gene_embeddings import GeneSums, gene_medians, gene_rows, gene_sums, genes_of
from rankshift.screen.embed.states import check_summary, summarise, write_states
from rankshift.screen.encoder.device import TOKEN_BUDGET, default_device
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError
from rankshift.screen.families.family import measured_layers
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.object_store import fetched
from rankshift.screen.progress import progress

Say = Callable[[str], None]
STATE = "state"  # column of the rows of genes with `by`: null where the row is of all cells


def embed(
    cells: Path,
    bundle: Path,
    out: Path,
    *,
    level: str = "auto",
    layer: int | str = -1,
    by: str | None = None,
    summary: str = "mean",
    genes: str | Sequence[str] = "all",
    per_cell: bool = False,
    where: str | None = None,
    max_cells: int | None = None,
    dtype: str = "float32",
    pictures: Pictures | None = None,
    workers: int | None = 0,
    say: Say = print,
) -> None:
    """Embed the cells of a token table, in input order, or its genes, to .parquet or .h5ad.

    level: cell (mean over the genes' rows), cls, gene (a gene's mean or, as `summary`, median over the cells that have
    it), or auto: cls where cells have it, else cell. layer: 0 of the last layer, -1 of the one before, and so on.
    by: an obs column. Cells give one vector per value of it, {value: vector}, to .json; genes get further rows, one per
    value. genes, per_cell: of level gene; the latter writes every hidden state, not aggregated. where, max_cells: a
    condition over the obs columns, and a sample (per value of `by`). pictures: of the rows written. workers: Ray workers that
    embed cells, 0: none, None: what there is; genes are always done in this process, because their sums would have to travel.
    """
    pictures = pictures or Pictures()
    check_alone(dtype)
    opened = Bundle.open(fetched(bundle))
    if not isinstance(layer, int):
        raise InputError(f"layer {layer} is for attention: name one, or add --level attention")
    layers = measured_layers(opened.config, layer)
    check_summary(summary)
    of_genes = level == "gene"
    _check_output(out, of_genes=of_genes, by=by, per_cell=per_cell, genes=genes, pictures=pictures)
    table = chosen_cells(cells, opened, where=where, by=by, max_cells=max_cells, say=say)
    if level == "auto":
        level = "cls" if table.frame.head else "cell"
    if not of_genes:
        check_level(level, table.frame)
    columns = _gene_columns(by) if of_genes else [*table.obs.column_names, "length"]
    pictures.check(columns)
    if out.suffix != ".json":
        check_file(out, columns)
    wanted = chosen_genes(genes, table, opened, say) if of_genes else None
    about = {"level": level, "layer": str(layer), "weights_sha256": opened.weights_sha256, "dtype": dtype}
    if wanted is None:
        found = _cell_embeddings(table, opened, level, layers, about, workers, say)
        told = f"{len(table)} cells"
    else:
        encoder = Encoder(opened, device=default_device(), dtype=dtype)
    if wanted is not None and not per_cell:
        found = _gene_embeddings(table, opened, encoder, wanted, layers, by, summary, about)
        told = f"{len(found.vectors)} rows of {len(wanted)} genes, {summary} over {len(table)} cells"
    elif wanted is not None:
        count = _write_gene_rows(out, table, opened, encoder, wanted, layers, about)
        told = f"{count} hidden states of {len(wanted)} genes in {len(table)} cells"
    if out.suffix == ".json":
        states = summarise(found.vectors, _labels(table, str(by)), summary)
        write_states(states, out)
        told = f"{len(states)} states ({', '.join(states)}), {summary} of {told}"
    elif not per_cell:
        found.write(out)
    say(f"{out}: {told}, {opened.config['hidden_size']} dimensions, level {level}, layer {layer}")
    if pictures:
        draw(found, pictures, say)


def draw(found: Embeddings, pictures: Pictures, say: Say) -> None:
    """The pictures of embeddings that were asked for."""
    name = pictures.color
    colouring = None if name is None else Colouring(title=name, values=found.rows[name].to_pylist())
    what = "genes" if found.about["level"] == "gene" else "cells"
    title = f"{len(found.vectors):,} {what}, layer {found.about['layer']}"
    if pictures.map is not None:
        draw_map(found.vectors, colouring, pictures.map, projection=pictures.projection, title=title)
        say(f"{pictures.map}: {pictures.projection} of {title}")
    if pictures.heat_map is not None:
        draw_heat_map(found.vectors, colouring, pictures.heat_map, title=title)
        say(f"{pictures.heat_map}: clustered heat map of {title}")


def _check_output(
    out: Path, *, of_genes: bool, by: str | None, per_cell: bool, genes: str | Sequence[str], pictures: Pictures
) -> None:
    """Refuse options that do not go together, before anything is read."""
    if not of_genes and (per_cell or genes != "all"):
        raise InputError(f"{'--per-cell' if per_cell else '--genes'} is for genes: add --level gene")
    if (by is not None and not of_genes) != (out.suffix == ".json"):
        raise InputError(f"--out {out} does not fit: give a .parquet or .h5ad, or, for cells with --by COLUMN, a .json")
    if per_cell and (by is not None or out.suffix != ".parquet"):
        raise InputError(
            f"--per-cell rows go to .parquet and have no --by, --out is {out}: leave --by out, name a .parquet"
        )
    if pictures and (per_cell or out.suffix == ".json"):
        raise InputError("pictures are of rows of cells or genes: leave out --by for cells, and --per-cell")


def _cell_embeddings(
    cells: Cells, bundle: Bundle, level: str, layers: int, about: dict[str, str], workers: int | None, say: Say
) -> Embeddings:
    """A row per cell, in the order of the cells; computed by workers, or here where there are none."""
    how: dict[str, Any] = {"level": level, "layer_count": layers}
    with progress("cells", len(cells)) as done, executor(workers, what="embed", say=say) as there:
        vectors = embed_on(there, cells, bundle.path, dtype=about["dtype"], done=done, **how)
    rows = cells.obs.append_column("length", pa.array(cells.lengths, pa.int32()))
    return Embeddings(rows=rows, key=("cell_id",), vectors=vectors, about=about)


def chosen_cells(
    path: Path, bundle: Bundle, *, where: str | None, by: str | None, max_cells: int | None, say: Say
) -> Cells:
    """The cells to embed: in input order; with `by` state after state, at most `max_cells` of each, none without state."""
    table = Cells.read(fetched(path), bundle)
    for note in table.notes:
        say(note)
    if where is not None:
        rows = rows_where(table.obs.append_column("length", pa.array(table.lengths)), where)
        if not len(rows):
            raise InputError(f"no cell is left after --where {where!r} (0 of {len(table)}): loosen it")
        table = table.take(rows)
    if by is None:
        return table if max_cells is None else table.take(np.sort(select(table, max_cells=max_cells)))
    states = dict.fromkeys(label for label in _labels(table, by) if label is not None)
    if not states:
        raise InputError(f"--by {by!r} is empty in all {len(table)} cells: name another column")
    return table.take(
        np.concatenate([select(table, state_key=by, start=state, max_cells=max_cells) for state in states])
    )


def _labels(cells: Cells, by: str) -> list:
    return labels_of(cells.obs, by, "--by").to_pylist()


def chosen_genes(genes: str | Sequence[str], cells: Cells, bundle: Bundle, say: Say) -> np.ndarray:
    """Ascending tokens of the named genes that cells have, without specials."""
    named, unknown = resolve_genes(genes, bundle)
    if unknown:
        say(f"{len(unknown)} genes are not in the vocabulary and are left out: {', '.join(unknown[:10])}")
    return genes_of(cells, bundle.vocabulary.is_gene, named)


def _gene_embeddings(
    cells: Cells,
    bundle: Bundle,
    encoder: Encoder,
    genes: np.ndarray,
    layers: int,
    by: str | None,
    summary: str,
    about: dict[str, str],
) -> Embeddings:
    """Rows of genes by Ensembl id of the vocabulary: over all cells, and with `by` over each state that has the gene."""
    states: list[str] = []
    group = None
    if by is not None:
        labels = _labels(cells, by)
        states = list(dict.fromkeys(labels))
        group = np.array([states.index(label) for label in labels])
    budget = TOKEN_BUDGET[encoder.device.type]
    compute = gene_sums if summary == "mean" else gene_medians
    with progress("cells", len(cells)) as done:
        found = compute(
            cells,
            encoder,
            genes=genes,
            layer_count=layers,
            tokens=budget,
            group=group,
            groups=len(states) or 1,
            done=done,
        )
    rows = found.means() if isinstance(found, GeneSums) else found
    names = _names(bundle, rows.token)
    if by is not None:
        names[STATE] = pa.array([None if s < 0 else states[s] for s in rows.group.tolist()], pa.string())
    names["cells"] = pa.array(rows.cells, pa.int32())
    about = about | {"summary": summary} | ({} if by is None else {"by": by})
    key = ("ensembl_id",) if by is None else ("ensembl_id", STATE)
    return Embeddings(rows=pa.table(names), key=key, vectors=rows.vectors, about=about)


def _gene_columns(by: str | None) -> list[str]:
    return ["ensembl_id", "symbol", *([] if by is None else [STATE]), "cells"]


def _names(bundle: Bundle, token: np.ndarray) -> dict[str, pa.Array]:
    v = bundle.vocabulary
    return {
        "ensembl_id": pa.array([v.ensembl_id[t] for t in token.tolist()]),
        "symbol": pa.array([v.symbol[t] for t in token.tolist()], pa.string()),
    }


def _write_gene_rows(
    out: Path,
    cells: Cells,
    bundle: Bundle,
    encoder: Encoder,
    genes: np.ndarray,
    layers: int,
    about: dict[str, str],
) -> int:
    """Every hidden state of the genes as it is computed: cell_id, ensembl_id, symbol, rank (1 is the top), embedding."""
    count, file = 0, None
    ids = cells.obs["cell_id"].combine_chunks()
    with replacing(out) as temporary, progress("cells", len(cells)) as done:
        try:
            for rows in gene_rows(cells, encoder, layer_count=layers, tokens=TOKEN_BUDGET[encoder.device.type]):
                keep = np.flatnonzero(np.isin(rows.token, genes))
                columns = {"cell_id": ids.take(pa.array(rows.cell[keep]))} | _names(bundle, rows.token[keep])
                columns["rank"] = pa.array(cells.frame.rank(rows.place[keep]), pa.int32())
                table = stamped(with_vectors(pa.table(columns), rows.hidden[keep]), about)
                file = file or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                file.write_table(table)
                count += len(keep)
                done(len(np.unique(rows.cell)))
        finally:
            if file is not None:
                file.close()
    return count
