"""Every kind of file that the product reads: what is damaged, the command that reads it, and the answer that it gives."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from .damage import (
    Damage,
    bytes_changed,
    hdf5_changed,
    hdf5_rewritten,
    json_changed,
    json_rewritten,
    parquet_rewritten,
    replaced,
    text_changed,
    text_rewritten,
)
from .valid import CELLS

SCREEN = ("--perturb", "delete", "--max-cells", CELLS, "--dtype", "float32", "--shard-tokens", 2000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of file.

    needs: what of the base is copied into the folder of a case. files: patterns of what is damaged there. command: that
    reads it, given the folder. answer: what the command found, from the folder, by other means where there are any; all
    its numbers must be finite. sealed: the product wrote a checksum of it, so damage to its bytes is harmless or told.
    """

    name: str
    needs: tuple[str, ...]
    files: tuple[str, ...]
    command: Callable[[Path], Sequence[Any]]
    answer: Callable[[Path], list[Any]]
    damages: tuple[Damage, ...] = (bytes_changed, replaced)
    harmless: tuple[Damage, ...] = ()
    sealed: bool = False


# ---------------------------------------------------------------- what commands found


def numbers(table: Any) -> list[Any]:
    """The columns of an Arrow table as plain values."""
    return [table.column_names, *(column.to_pylist() for column in table.columns)]


def lists_of(folder: Path) -> list[Any]:
    """Of a token table: its lists."""
    return numbers(pq.read_table(folder / "out.parquet").select(["input_ids", "length"]))


def rows_of(folder: Path) -> list[Any]:
    """Of a run: its rows, read by pyarrow from its parts."""
    return numbers(pq.read_table(folder / "out/shifts").sort_by([("cell", "ascending"), ("perturbation", "ascending")]))


def identity(folder: Path) -> list[Any]:
    """Of a bundle: the checksum of its weights, and its vocabulary."""
    about = json.loads((folder / "out/bundle.json").read_text())
    return [about["weights_sha256"], *numbers(pq.read_table(folder / "out/vocabulary.parquet"))]


def printed(folder: Path) -> list[Any]:
    """Of a query: its table."""
    return numbers(pq.read_table(folder / "out.parquet"))


def _adapted(at: Path) -> Sequence[Any]:
    vocabulary = ("--vocabulary", at / "alone.parquet")
    return ("bundle", at / "adapter", "--base", at / "model", *vocabulary, "--out", at / "out")


def _tokenize(name: str) -> Callable[[Path], Sequence[Any]]:
    return lambda at: ("tokenize", at / name, "--bundle", at / "bundle", "--out", at / "out.parquet")


def _screen(cells: str = "cells.parquet", *more: Any) -> Callable[[Path], Sequence[Any]]:
    def command(at: Path) -> Sequence[Any]:
        options = [at / x[1:] if isinstance(x, str) and x.startswith("@") else x for x in more]
        return ("screen", at / cells, "--bundle", at / "bundle", "--out", at / "out", *SCREEN, *options)

    return command


def _bundle(model: str = "model", vocabulary: str = "vocabulary.json", medians: str = "medians.json") -> Callable:
    return lambda at: (
        "bundle", at / model, "--vocabulary", at / vocabulary, "--medians", at / medians, "--out", at / "out",
    )  # fmt: skip


def _ask(run: str, sql: str) -> Callable[[Path], Sequence[Any]]:
    return lambda at: ("query", at / run, sql, "--format", "parquet", "--out", at / "out.parquet")


def _query(at: Path) -> Sequence[Any]:
    sql = "SELECT s.*, p.symbols AS named FROM shifts s JOIN perturbations p USING (perturbation) ORDER BY ALL"
    return _ask("run", sql)(at)


GOAL = ("--state-key", "cell_type", "--start", "fb", "--goal", "cm")
TEXTS = (bytes_changed, text_changed, replaced)
HDF5 = {"damages": (bytes_changed, hdf5_changed, hdf5_changed, replaced), "harmless": (hdf5_rewritten,)}
JSONS = (bytes_changed, text_changed, json_changed, json_changed, replaced)
KINDS = (
    Kind(
        name="counts .h5ad", needs=("bundle", "cells.h5ad"), files=("cells.h5ad",), command=_tokenize("cells.h5ad"),
        answer=lists_of, **HDF5,
    ),
    Kind(
        name="counts .h5ad by gene", needs=("bundle", "by_gene.h5ad"), files=("by_gene.h5ad",),
        command=_tokenize("by_gene.h5ad"), answer=lists_of, **HDF5,
    ),
    Kind(
        name="counts .h5ad dense", needs=("bundle", "dense.h5ad"), files=("dense.h5ad",), command=_tokenize("dense.h5ad"),
        answer=lists_of, **HDF5,
    ),
    Kind(
        name="counts .h5mu", needs=("bundle", "mudata.h5mu"), files=("mudata.h5mu",), command=_tokenize("mudata.h5mu"),
        answer=lists_of, **HDF5,
    ),
    Kind(
        name="counts .loom", needs=("bundle", "genes.loom"), files=("genes.loom",), command=_tokenize("genes.loom"),
        answer=lists_of, **HDF5,
    ),
    Kind(
        name="counts .zarr", needs=("bundle", "counts.zarr"), files=("counts.zarr/**/*",), command=_tokenize("counts.zarr"),
        answer=lists_of,
    ),
    Kind(
        name="counts 10x .h5", needs=("bundle", "tenx.h5"), files=("tenx.h5",), command=_tokenize("tenx.h5"),
        answer=lists_of, **HDF5,
    ),
    Kind(
        name="counts 10x mtx", needs=("bundle", "mtx"), files=("mtx/*",), command=_tokenize("mtx"),
        answer=lists_of,
    ),
    Kind(
        name="counts .csv", needs=("bundle", "counts.csv"), files=("counts.csv",), command=_tokenize("counts.csv"),
        answer=lists_of, damages=TEXTS, harmless=(text_rewritten,),
    ),
    Kind(
        name="token table", needs=("bundle", "cells.parquet"), files=("cells.parquet",), command=_screen(), answer=rows_of,
        harmless=(parquet_rewritten,),
    ),
    Kind(
        name=".dataset", needs=("bundle", "cells.dataset"), files=("cells.dataset/*",), command=_screen("cells.dataset"),
        answer=rows_of,
    ),
    Kind(
        name="list of genes", needs=("bundle", "cells.parquet", "genes.txt"), files=("genes.txt",),
        command=_screen("cells.parquet", "--genes", "@genes.txt"), answer=rows_of, damages=TEXTS, harmless=(text_rewritten,),
    ),
    Kind(
        name="gene sets", needs=("bundle", "cells.parquet", "sets.gmt"), files=("sets.gmt",),
        command=_screen("cells.parquet", "--genes", "@sets.gmt"), answer=rows_of, damages=TEXTS, harmless=(text_rewritten,),
    ),
    Kind(
        name="states", needs=("bundle", "cells.parquet", "states.json"), files=("states.json",),
        command=_screen("cells.parquet", "--states", "@states.json", *GOAL), answer=rows_of,
        damages=JSONS, harmless=(json_rewritten, text_rewritten),
    ),
    Kind(
        name="a bundle's weights", needs=("bundle", "cells.parquet"), files=("bundle/*.safetensors",), command=_screen(),
        answer=rows_of, sealed=True,
    ),
    Kind(
        name="a bundle's words", needs=("bundle", "cells.parquet"), files=("bundle/*.json", "bundle/vocabulary.parquet"),
        command=_screen(), answer=rows_of, sealed=True,
    ),
    Kind(
        name="a bundle's record", needs=("bundle", "cells.parquet"), files=("bundle/bundle.json",), command=_screen(),
        answer=rows_of, damages=JSONS, harmless=(json_rewritten,),
    ),
    Kind(
        name="shape to pretrain", needs=("model", "cells.parquet", "alone.parquet"), files=("model/config.json",),
        command=lambda at: ("pretrain", at / "cells.parquet", "--vocabulary", at / "alone.parquet", "--out", at / "out",
                            "--config", at / "model/config.json", "--epochs", 1, "--batch-tokens", 512, "--workers", 0),
        answer=identity, damages=JSONS, harmless=(json_rewritten,),
    ),
    Kind(
        name="checkpoint", needs=("model", "vocabulary.json", "medians.json"), files=("model/*",), command=_bundle(),
        answer=identity,
    ),
    Kind(
        name="index of weights", needs=("sharded", "vocabulary.json", "medians.json"), files=("sharded/*.index.json",),
        command=_bundle("sharded"), answer=identity, damages=JSONS,
    ),
    Kind(
        name="pickled weights", needs=("pickled", "vocabulary.json", "medians.json"), files=("pickled/pytorch_model.bin",),
        command=_bundle("pickled"), answer=identity,
    ),
    Kind(
        name="adapter: weights", needs=("model", "adapter", "alone.parquet"), files=("adapter/*.safetensors",),
        command=_adapted, answer=identity,
    ),
    Kind(
        name="adapter: words", needs=("model", "adapter", "alone.parquet"), files=("adapter/*.json",), command=_adapted,
        answer=identity, damages=JSONS, harmless=(json_rewritten,),
    ),
    Kind(
        name="vocabulary .parquet", needs=("model", "alone.parquet"), files=("alone.parquet",),
        command=lambda at: ("bundle", at / "model", "--vocabulary", at / "alone.parquet", "--out", at / "out"),
        answer=identity, sealed=True,
    ),
    Kind(
        name="configuration", needs=("model", "vocabulary.json", "medians.json"), files=("model/config.json",),
        command=_bundle(), answer=identity, damages=JSONS, harmless=(json_rewritten,),
    ),
    Kind(
        name="dictionary .json", needs=("model", "vocabulary.json", "medians.json"), files=("vocabulary.json", "medians.json"),
        command=_bundle(), answer=identity, damages=JSONS, harmless=(text_rewritten,),
    ),
    Kind(
        name="dictionary .pkl", needs=("model", "token_dictionary.pkl", "medians.pkl"), files=("*.pkl",),
        command=_bundle("model", "token_dictionary.pkl", "medians.pkl"), answer=identity,
    ),
    Kind(
        name="run: manifest, markers", needs=("run",), files=("run/run.json", "run/commits/*"), command=_query,
        answer=printed, damages=JSONS,
    ),
    Kind(
        name="run: parts", needs=("run",), files=("run/shifts/*.parquet",), command=_query, answer=printed, sealed=True,
    ),
    Kind(
        name="run: cells, genes", needs=("run",), files=("run/cells.parquet", "run/perturbations.parquet"), command=_query,
        answer=printed, sealed=True,
    ),
    Kind(
        name="run: statistics", needs=("run",), files=("run/statistics.parquet",), answer=printed, sealed=True,
        command=_ask("run", "SELECT * FROM statistics ORDER BY ALL"),
    ),
    Kind(
        name="run: compacted", needs=("sorted",), files=("sorted/compacted/**/*",), answer=printed, sealed=True,
        command=_ask("sorted", "SELECT * FROM shifts ORDER BY ALL"),
    ),
    Kind(
        name="run: screen.toml", needs=("run", "bundle", "cells.parquet"), files=("run/screen.toml",),
        command=lambda at: ("screen", "--config", at / "run/screen.toml", at / "cells.parquet", "--bundle", at / "bundle",
                            "--out", at / "out"),
        answer=rows_of, damages=TEXTS, harmless=(text_rewritten,),
    ),
)  # fmt: skip
