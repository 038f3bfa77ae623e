"""Small valid files of every kind that the product reads, made once from golden files, and the command that reads each."""

import gzip
import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from support import GOLDEN

from .damage import (
    Damage,
    bytes_changed,
    json_changed,
    json_rewritten,
    parquet_rewritten,
    replaced,
    text_changed,
    text_rewritten,
)

V1 = GOLDEN / "v1"
CELLS = 3  # of a screen: enough for rows, quick to compute
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


def make_base(base: Path) -> None:
    """All files, valid."""
    from rankshift.screen.bundle.bundle import make_bundle

    base.mkdir(parents=True)
    for name in (
        "cells.h5ad",
        "cells.parquet",
        "vocabulary.json",
        "medians.json",
        "gene_names.json",
        "token_dictionary.pkl",
    ):
        shutil.copy(V1 / name, base / name)
    shutil.copytree(V1 / "cells.dataset", base / "cells.dataset")
    shutil.copytree(V1 / "model", base / "model")
    bundle = make_bundle(base / "model", base / "vocabulary.json", base / "bundle", medians=base / "medians.json")
    genes = list(json.loads((base / "vocabulary.json").read_text()))[-6:]
    (base / "genes.txt").write_text("\n".join(genes) + "\n")
    (base / "sets.gmt").write_text(
        "one\tabout\t" + "\t".join(genes[:3]) + "\ntwo\tabout\t" + "\t".join(genes[3:]) + "\n"
    )
    draw = np.random.default_rng(0)
    states = {name: draw.normal(size=bundle.sizes.hidden_size).tolist() for name in ("fb", "cm")}
    (base / "states.json").write_text(json.dumps(states))
    (base / "medians.pkl").write_bytes(pickle.dumps(json.loads((base / "medians.json").read_text())))
    _counts(base)
    _checkpoint(base)
    _run(base)


def _counts(base: Path) -> None:
    """The golden counts as .zarr, 10x .h5, a folder of mtx and a table."""
    import anndata
    import h5py
    import pandas as pd
    import scipy.io
    import scipy.sparse as sp

    golden = anndata.read_h5ad(base / "cells.h5ad")
    ids = [str(name) for name in golden.var.get("ensembl_id", golden.var_names)]
    x = sp.csr_matrix(golden.X)
    plain = anndata.AnnData(x, obs=pd.DataFrame(index=golden.obs_names), var=pd.DataFrame(index=ids))
    plain.var_names_make_unique()
    plain.write_zarr(base / "counts.zarr")
    with h5py.File(base / "tenx.h5", "w") as file:
        for name, values in {"data": x.data, "indices": x.indices, "indptr": x.indptr, "shape": x.shape[::-1]}.items():
            file[f"matrix/{name}"] = values
        file["matrix/barcodes"] = np.array(list(golden.obs_names), "S")
        kinds = ["Gene Expression"] * len(ids)
        for name, values in {"id": ids, "name": ids, "feature_type": kinds}.items():
            file[f"matrix/features/{name}"] = np.array(values, "S")
    (base / "mtx").mkdir()
    scipy.io.mmwrite(base / "mtx/matrix.mtx", x.T)
    (base / "mtx/matrix.mtx.gz").write_bytes(gzip.compress((base / "mtx/matrix.mtx").read_bytes()))
    (base / "mtx/matrix.mtx").unlink()
    features = "".join(f"{name}\t{name}\tGene Expression\n" for name in ids)
    (base / "mtx/features.tsv.gz").write_bytes(gzip.compress(features.encode()))
    (base / "mtx/barcodes.tsv.gz").write_bytes(gzip.compress("".join(f"{c}\n" for c in golden.obs_names).encode()))
    pd.DataFrame(x.toarray(), index=golden.obs_names, columns=ids).to_csv(base / "counts.csv", index_label="cell")


def _checkpoint(base: Path) -> None:
    """The model with pickled weights."""
    import torch
    from safetensors.torch import load_file

    shutil.copytree(base / "model", base / "pickled")
    torch.save(load_file(base / "pickled/model.safetensors"), base / "pickled/pytorch_model.bin")
    (base / "pickled/model.safetensors").unlink()


def _run(base: Path) -> None:
    """A finished screen."""
    from rankshift.screen.engine.screener import run

    run(
        base / "cells.parquet",
        base / "bundle",
        base / "run",
        perturb="delete",
        max_cells=CELLS,
        dtype="float32",
        shard_tokens=2000,
    )


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


def _query(at: Path) -> Sequence[Any]:
    sql = "SELECT s.*, p.symbols AS named FROM shifts s JOIN perturbations p USING (perturbation) ORDER BY ALL"
    return ("query", at / "run", sql, "--format", "parquet", "--out", at / "out.parquet")


GOAL = ("--state-key", "cell_type", "--start", "fb", "--goal", "cm")
TEXTS = (bytes_changed, text_changed, replaced)
JSONS = (bytes_changed, text_changed, json_changed, json_changed, replaced)
KINDS = (
    Kind(
        name="counts .h5ad", needs=("bundle", "cells.h5ad"), files=("cells.h5ad",), command=_tokenize("cells.h5ad"),
        answer=lists_of,
    ),
    Kind(
        name="counts .zarr", needs=("bundle", "counts.zarr"), files=("counts.zarr/**/*",), command=_tokenize("counts.zarr"),
        answer=lists_of,
    ),
    Kind(
        name="counts 10x .h5", needs=("bundle", "tenx.h5"), files=("tenx.h5",), command=_tokenize("tenx.h5"),
        answer=lists_of,
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
        name="checkpoint", needs=("model", "vocabulary.json", "medians.json"), files=("model/*",), command=_bundle(),
        answer=identity,
    ),
    Kind(
        name="pickled weights", needs=("pickled", "vocabulary.json", "medians.json"), files=("pickled/pytorch_model.bin",),
        command=_bundle("pickled"), answer=identity,
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
        name="run: cells, genes", needs=("run",), files=("run/*.parquet",), command=_query, answer=printed, sealed=True,
    ),
    Kind(
        name="run: screen.toml", needs=("run", "bundle", "cells.parquet"), files=("run/screen.toml",),
        command=lambda at: ("screen", "--config", at / "run/screen.toml", at / "cells.parquet", "--bundle", at / "bundle",
                            "--out", at / "out"),
        answer=rows_of, damages=TEXTS, harmless=(text_rewritten,),
    ),
)  # fmt: skip
