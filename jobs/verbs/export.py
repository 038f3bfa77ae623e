"""`rankshift export`: a run as the pickles of the published code, for notebooks that read those.

It is the only place of the project that writes pickles, and only when asked: dictionaries of tuples, numbers and lists, no
classes. Everything else reads the run folder itself.
"""

import hashlib
import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.adaptive.plans import in_order_of_lists
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing, scratch, sync
from rankshift.screen.runs.layout import PERTURBATIONS, SIMILARITY, genes_path, part_path, shift_column
from rankshift.screen.runs.run import Run

SUFFIX = "_raw.pickle"
TRIPLES = "_triples.pickle"  # pairs with an anchor as (anchor alone, gene alone, both), which their statistics need
NAME_BYTES = 255  # the longest file name on every common file system

Key = int | tuple[int, ...]
Say = Callable[[str], None]


def export(
    run: Path,
    out: Path,
    *,
    format: str = "reference",
    prefix: str | None = None,
    first_cell: int = 0,
    shifted_labels: bool = False,
    beside: bool = False,
    say: Say = print,
) -> list[Path]:
    """Write the pickles of PS 3.6 to the folder `out` and return their paths.

    prefix: part of every file name, by default the name of the run. first_cell: number of the run's first cell in file
    names. shifted_labels: gene values of an overexpression of all genes under the gene behind their own, as published
    (PS B1). beside: let `out` hold files already, and replace those of the same name; otherwise it must be new,
    because readers merge all pickles of a folder (PS B21). Raises InputError on a run that is not complete.
    """
    if format != "reference":
        raise InputError(f"--format {format!r} is unknown: use reference")
    opened = Run.open(Path(run))
    opened.check_whole("exports")
    there = len(opened.committed)  # which checks every file of the run
    if not opened.complete:
        all_ = opened.manifest.shards
        raise InputError(f"{run} has {there} of {all_} shards: finish the screen with --resume")
    out = Path(out)
    if not beside and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out} exists and is not an empty folder: give another, readers merge what lies there")
    kept = opened.manifest.gene_shifts
    if kept is not None and not kept.per_cell:
        say("gene shifts were aggregated over cells, and the pickles hold one value per cell: screen with --per-cell")
    name = opened.path.resolve().name if prefix is None else prefix
    if "/" in name or "\0" in name:
        raise InputError(f"prefix {name!r} is part of file names: leave the slash out")
    contents = _contents(opened, name, first_cell, shifted_labels)
    written = write_folder(contents, out)
    say(f"{out}: {len(written):,} pickles")
    return written


def write_pickle(content: Any, path: Path) -> None:
    """Pickle one object to `path`, whole or not at all: state vectors, which notebooks expect to be tensors."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        pickle.dump(content, file, protocol=4)


def write_folder(contents: Iterator[tuple[str, Any]], out: Path) -> list[Path]:
    """Pickle (file name, object) pairs into the folder `out`: all files appear when all are written."""
    with scratch(out) as making:
        names = []
        for name, content in contents:
            with (making / name).open("wb") as file:
                pickle.dump(content, file, protocol=4)
                file.flush()
                os.fsync(file.fileno())
            names.append(name)
        out.mkdir(exist_ok=True)
        for name in names:
            os.replace(making / name, out / name)
        sync(out)
    return [out / name for name in names]


def _contents(run: Run, prefix: str, first_cell: int, shifted: bool) -> Iterator[tuple[str, Any]]:
    perturb, kept = run.manifest.perturb, run.manifest.gene_shifts
    stem = f"in_silico_{perturb.kind}_{prefix}"
    keys = _keys(run, perturb.anchor)
    per_cell = kept is not None and kept.per_cell
    shifts = _cells(_tables(run))
    genes = _cells(pq.read_table(genes_path(run.path, name)) for name in run.committed) if per_cell else iter(())
    if perturb.how == "together":
        tokens = keys[0] if isinstance(keys[0], tuple) else (keys[0],)
        yield joint_name(stem, "cell", tokens), _merged(_cell_values(rows, run.states, keys) for _, rows in shifts)
        if per_cell:
            yield joint_name(stem, "gene", tokens), _merged(_gene_values(rows, keys) for _, rows in genes)
        return
    paired = perturb.anchor is not None
    shifted = shifted and perturb.kind == "overexpress" and perturb.genes is None and not paired
    for cell, rows in shifts:
        name = f"{stem}_dict_cell_embs_{cell + first_cell}batch-1"
        yield f"{name}{SUFFIX}", _cell_values(rows, run.states, keys, plain=paired and not run.states)
        if paired and not run.states:
            yield f"{name}{TRIPLES}", _triples(rows, keys)
    for cell, rows in genes:
        yield f"{stem}_dict_gene_embs_{cell + first_cell}batch-1{SUFFIX}", _gene_values(rows, keys, shifted=shifted)


def joint_name(stem: str, part: str, tokens: Sequence[int]) -> str:
    """File of a joint perturbation; a list too long for a file name is replaced by its hash, the keys inside hold it (PS B14).

    >>> joint_name("in_silico_delete_x", "cell", (5, 9))
    'in_silico_delete_x_cell_embs_dict_[5, 9]_raw.pickle'
    """
    name = f"{stem}_{part}_embs_dict_{list(tokens)}{SUFFIX}"
    if len(name.encode()) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(str(list(tokens)).encode()).hexdigest()[:12]
    return f"{stem}_{part}_embs_dict_{len(tokens)}_genes_{digest}{SUFFIX}"


def _keys(run: Run, anchor: int | None) -> list[Key]:
    """The key of each perturbation in published files: token, tuple of tokens, or for a pair the anchor's partner."""
    table = pq.read_table(run.path / PERTURBATIONS, columns=["perturbation", "tokens"])
    keys: list[Key] = [0] * table.num_rows
    for number, tokens in zip(table["perturbation"].to_pylist(), table["tokens"].to_pylist(), strict=True):
        if len(tokens) == 1 or anchor is not None:
            keys[number] = tokens[-1]
        else:
            keys[number] = tuple(tokens)
    return keys


def _tables(run: Run) -> Iterator[pa.Table]:
    """The rows of a run in the order of cells, in each by rank, some at a time."""
    if run.manifest.adaptive is None:
        yield from (pq.read_table(part_path(run.path, name)) for name in run.committed)
    else:  # the rounds of an adaptive screen took some rows of every cell
        yield in_order_of_lists(run)


def _cells(parts: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """(cell, its rows in rank order), cells in processing order; a cell may be cut over several parts."""
    held: pa.Table | None = None
    for table in parts:
        held = table if held is None else pa.concat_tables([held, table])
        edges = np.flatnonzero(np.diff(held["cell"].to_numpy())) + 1
        begin = 0
        for end in edges.tolist():
            yield held["cell"][begin].as_py(), held.slice(begin, end - begin)
            begin = end
        held = held.slice(begin)
    if held is not None and held.num_rows:
        yield held["cell"][0].as_py(), held


def _cell_values(rows: pa.Table, states: Sequence[str], keys: Sequence[Key], *, plain: bool = False) -> dict:
    """{(perturbed, "cell_emb"): [value]} of one cell, below the name of each state when there are states."""
    named = [(keys[p], "cell_emb") for p in rows["perturbation"].to_pylist()]
    if not states:
        values = _numbers(rows[SIMILARITY])
        return dict(zip(named, values, strict=True)) if plain else _lists(named, values)
    return {state: _lists(named, _numbers(rows[shift_column(state)])) for state in states}


def _numbers(column: pa.ChunkedArray) -> list[float]:
    """Python floats; NaN where a row has no value, as the published mean over no gene."""
    return [math.nan if value is None else value for value in column.to_pylist()]


def _triples(rows: pa.Table, keys: Sequence[Key]) -> dict:
    columns = [_numbers(rows[name]) for name in ("similarity_first", "similarity_second", "similarity")]
    named = [(keys[p], "cell_emb") for p in rows["perturbation"].to_pylist()]
    return _lists(named, list(zip(*columns, strict=True)))


def _gene_values(rows: pa.Table, keys: Sequence[Key], *, shifted: bool = False) -> dict:
    """{(perturbed, affected): [cosine]} of one cell, in rank order."""
    perturbation, affected = rows["perturbation"].to_numpy(), rows["affected"].to_pylist()
    # min is the cosine as it was measured, sum the same in float64
    values = rows["min"].to_pylist()
    named = [(keys[p], a) for p, a in zip(perturbation.tolist(), affected, strict=True)]
    if not shifted:
        return _lists(named, values)
    last = np.append(np.diff(perturbation) != 0, True)
    kept = np.flatnonzero(~last).tolist()
    return _lists([named[i + 1] for i in kept], [values[i] for i in kept])


def _lists(named: Sequence[tuple], values: Sequence[Any]) -> dict:
    out: dict[tuple, list] = {}
    for key, value in zip(named, values, strict=True):
        out.setdefault(key, []).append(value)
    return out


def _merged(parts: Iterator[dict]) -> dict:
    """The lists of several cells behind each other, state by state where there are states."""
    out: dict = {}
    for part in parts:
        for key, value in part.items():
            if isinstance(value, dict):
                into = out.setdefault(key, {})
                for inner, values in value.items():
                    into.setdefault(inner, []).extend(values)
            else:
                out.setdefault(key, []).extend(value)
    return out
