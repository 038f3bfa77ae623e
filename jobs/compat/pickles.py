"""Raw pickles, ours or the published code's, read back and laid out as a run that the statistics can read.

Pickles are read without unpickling (`files.plain_pickle`): dictionaries of plain values and nothing else.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.screen.errors import InputError
from rankshift.screen.files.entries import Unfit
from rankshift.screen.files.one_line import one_line
from rankshift.screen.files.plain_pickle import read_pickle
from rankshift.screen.genes.vocabulary import Vocabulary
from rankshift.screen.runs.layout import (
    CELLS,
    COMMITS,
    EMPTY_PART,
    GENES,
    PERTURBATIONS,
    SHIFTS,
    VOCABULARY,
    genes_path,
    marker_path,
    part_path,
    state_of,
)
from rankshift.screen.runs.manifest import GenesKept, Manifest
from rankshift.screen.runs.run import Run

Tokens = tuple[int, ...]
SHARD = "shard-000000"
CELL = "cell_emb"  # what stands for the cell where tokens of affected genes stand


@dataclass(frozen=True, kw_only=True, slots=True)
class RawValues:
    """What raw pickles hold. cells: {state or None: {perturbed: values}}; genes: {(perturbed, affected): values}."""

    cells: dict[Any, dict[Tokens, list]] = field(default_factory=dict)
    genes: dict[tuple[Tokens, int], list] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path, suffix: str, each: int = 1) -> "RawValues":
        """All files of a folder that end in `suffix`, in the order of the cells their names count (PS B15).

        each: numbers that a cell has, three in the files of pairs. Raises InputError where a file holds anything else.
        """
        files = sorted((f for f in Path(folder).glob("*") if f.name.endswith(suffix)), key=_place)
        if not files:
            raise InputError(
                f"{folder} holds no file that ends in {suffix}: give the output_directory of the perturber"
            )
        values = RawValues()
        for file in files:
            try:
                values._take(read_pickle(file), each)
            except Unfit as error:
                raise InputError(f"{file}: {error}: give the folder of raw pickles alone") from None
        return values

    @staticmethod
    def merged(contents: Iterable[Mapping]) -> "RawValues":
        """The dictionaries as one, in which the lists of equal keys are joined."""
        values = RawValues()
        for content in contents:
            try:
                values._take(content, 1)
            except Unfit as error:
                raise InputError(f"{error}: give dictionaries as raw pickles hold them") from None
        return values

    def _take(self, content: Any, each: int) -> None:
        """Join one dictionary: {key: values}, or {state: {key: values}}. Raises Unfit where it is none of raw values."""
        if not isinstance(content, Mapping):
            raise Unfit(f"a {type(content).__name__} is no dictionary of perturbations")
        for key, value in content.items():
            if isinstance(value, Mapping):
                for inner, some in value.items():
                    self._add(key, inner, some, each)
            else:
                self._add(None, key, value, each)

    def _add(self, state: Any, key: Any, value: Any, each: int) -> None:
        if not isinstance(key, tuple) or len(key) != 2:
            raise Unfit(f"key {_short(key)} is no pair of what was perturbed and what it affected")
        perturbed, affected = key
        tokens = _tokens(perturbed if isinstance(perturbed, tuple | list) else (perturbed,), key)
        some = _numbers(value, key, each)
        if isinstance(affected, str) and affected == CELL:
            self.cells.setdefault(state, {}).setdefault(tokens, []).extend(some)
        else:
            (token,) = _tokens((affected,), key)
            self.genes.setdefault((tokens, token), []).extend(some)

    @property
    def states(self) -> list:
        """States the values are shifts towards, in the order of the files; none for similarities."""
        return [state for state in self.cells if state is not None]


def _place(file: Path) -> tuple:
    numbers = re.findall(r"_(\d+)batch(-?\d+)", file.name)
    return (tuple(int(n) for n in numbers[-1]) if numbers else (-1, -1), file.name)


def _tokens(found: Sequence, key: tuple) -> tuple[int, ...]:
    """Tokens as whole numbers, at least one."""
    if not found or not all(isinstance(token, int | np.integer) and not isinstance(token, bool) for token in found):
        raise Unfit(f"key {_short(key)} does not say by tokens which genes it is of")
    return tuple(map(int, found))


def _numbers(value: Any, key: tuple, each: int) -> list:
    """The value of a cell or those of several, as a list of numbers (`each` 1) or of rows of them; float32 holds them all.

    Of a cell a value may be missing, not-a-number, as the published mean over no gene is.
    """
    try:
        numbers = np.asarray(value)
    except ValueError:  # lists of several lengths
        numbers = np.empty(0)
    numbers = numbers[None] if numbers.ndim == 0 else numbers
    shape = (len(numbers),) if each == 1 else (len(numbers), each)
    fits = numbers.dtype.kind in "fiu" and numbers.size > 0 and numbers.shape == shape
    if fits:
        held = np.abs(numbers.astype(np.float64)) <= np.finfo(np.float32).max
        fits = bool((held | np.isnan(numbers) if key[1] == CELL else held).all())
    if not fits:
        needed = "finite numbers are" if each == 1 else f"{each} finite numbers for every cell are"
        raise Unfit(f"values of {_short(key)} are {_short(value)}, and {needed} needed")
    return list(numbers)


def _short(value: Any) -> str:
    text = one_line(value)
    return text if len(text) <= 60 else text[:57] + "…"


Columns = Mapping[str, Mapping[Tokens, Sequence[float]]]  # {column of shifts: {perturbed: values}}


def as_run(
    folder: Path,
    columns: Columns,
    vocabulary: Vocabulary,
    *,
    route: Sequence[str] | None = None,
    together: bool = False,
    genes: Mapping[tuple[Tokens, int], Sequence[float]] | None = None,
) -> Run:
    """A run folder of values whose cells have no names: value i of a perturbation is that of cell i.

    columns: lists of one perturbation are of equal length in all columns. route: state key, start, goal, alternatives.
    """
    perturbed = sorted(next(iter(columns.values())))
    tokens_held = [*perturbed, *((affected,) for _, affected in genes or ())]
    unknown = [t for tokens in tokens_held for t in tokens if not 0 <= t < vocabulary.size]
    if unknown:
        raise InputError(f"the pickles hold token {unknown[0]}, the token dictionary ends at {vocabulary.size - 1}")
    for name in (SHIFTS, GENES, COMMITS):
        (folder / name).mkdir(parents=True)
    first = next(iter(columns.values()))
    count = np.array([len(first[tokens]) for tokens in perturbed], np.int64)
    for name, values in columns.items():
        if [len(values.get(tokens, ())) for tokens in perturbed] != count.tolist():
            raise InputError(f"the pickles hold fewer values of {name} than of others: perturb again")
    number = np.arange(len(perturbed), dtype=np.int32)
    table = {
        "cell": pa.array(np.concatenate([np.arange(n, dtype=np.int32) for n in count])),
        "perturbation": pa.array(np.repeat(number, count)),
    }
    for name, values in columns.items():
        table[name] = pa.array([v for tokens in perturbed for v in values[tokens]], pa.float32())
    _write(part_path, folder, pa.table(table))
    gene, symbol = vocabulary.gene_of, vocabulary.symbol_of
    named = {
        "perturbation": number,
        "kind": ["perturb"] * len(perturbed),
        "gene_ids": ["+".join(gene[t] for t in tokens) for tokens in perturbed],
        "symbols": ["+".join(symbol[t] or gene[t] for t in tokens) for tokens in perturbed],
        "tokens": pa.array(perturbed, pa.list_(pa.int32())),
    }
    pq.write_table(pa.table(named), folder / PERTURBATIONS)
    cells = int(count.max())
    lists = pa.array([[]] * cells, pa.list_(pa.int32()))
    pq.write_table(pa.table({"cell_id": np.arange(cells), "input_ids": lists}), folder / CELLS)
    vocabulary.write(folder / VOCABULARY)
    if genes is not None:
        _write(genes_path, folder, _gene_sums(genes, {tokens: i for i, tokens in enumerate(perturbed)}))
    Manifest.published(
        states=[state for name in columns if (state := state_of(name)) is not None],
        route=route,
        how="together" if together else "each",
        gene_shifts=None if genes is None else GenesKept(),
    ).write(folder)
    marker_path(folder, SHARD).write_text(json.dumps({"shard": SHARD, "rows": int(count.sum())}))
    return Run.open(folder)


def _write(path: Any, folder: Path, table: pa.Table) -> None:
    pq.write_table(table, path(folder, SHARD))
    pq.write_table(table.slice(0, 0), path(folder, EMPTY_PART))


def _gene_sums(genes: Mapping[tuple[Tokens, int], Sequence[float]], number: Mapping[Tokens, int]) -> pa.Table:
    known = [
        (number[tokens], affected, np.array(values)) for (tokens, affected), values in genes.items() if tokens in number
    ]
    return pa.table(
        {
            "perturbation": pa.array([p for p, _, _ in known], pa.int32()),
            "affected": pa.array([a for _, a, _ in known], pa.int32()),
            "n": pa.array([len(v) for _, _, v in known], pa.int32()),
            "sum": pa.array([float(v.sum()) for _, _, v in known], pa.float64()),
            "square": pa.array([float((v * v).sum()) for _, _, v in known], pa.float64()),
            "min": pa.array([float(v.min()) for _, _, v in known], pa.float32()),
        }
    )
