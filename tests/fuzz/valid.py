"""Small valid files of every kind that the product reads, made once from golden files."""

import gzip
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from support import GOLDEN

V1 = GOLDEN / "v1"
CELLS = 3  # of a screen: enough for rows, quick to compute


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
    _layouts(base)
    _checkpoint(base)
    _adapter(base, bundle)
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


def _layouts(base: Path) -> None:
    """The same counts stored by gene, dense, in MuData's layout and in loom's."""
    import anndata
    import h5py
    import pandas as pd
    import scipy.sparse as sp
    from anndata.io import write_elem

    golden = anndata.read_h5ad(base / "cells.h5ad")
    ids = [str(name) for name in golden.var.get("ensembl_id", golden.var_names)]
    x = sp.csr_matrix(golden.X)
    obs, var = pd.DataFrame(index=golden.obs_names), pd.DataFrame({"ensembl_id": ids}, index=golden.var_names)
    anndata.AnnData(sp.csc_matrix(x), obs=obs, var=var).write_h5ad(base / "by_gene.h5ad")
    anndata.AnnData(x.toarray(), obs=obs, var=var).write_h5ad(base / "dense.h5ad")
    with h5py.File(base / "mudata.h5mu", "w") as file:
        write_elem(file, "mod/rna", anndata.AnnData(x, obs=obs, var=var))
    with h5py.File(base / "genes.loom", "w") as file:
        file["matrix"] = x.toarray().T
        file["row_attrs/ensembl_id"] = np.array(ids, "S")
        file["col_attrs/CellID"] = np.array(list(golden.obs_names), "S")


def _adapter(base: Path, bundle: Any) -> None:
    """A LoRA adapter of two matrices under the names that PEFT gives them, and the vocabulary as a file of its own."""
    from safetensors.numpy import save_file

    from rankshift.screen.genes.vocabulary import Vocabulary

    draw = np.random.default_rng(1)
    width, rank, place = bundle.sizes.hidden_size, 2, "base_model.model.bert.encoder.layer.1.attention.self"
    halves = {"lora_A": (rank, width), "lora_B": (width, rank)}
    (base / "adapter").mkdir()
    save_file(
        {
            f"{place}.{matrix}.{half}.weight": draw.normal(size=shape).astype(np.float32)
            for matrix in ("query", "value")
            for half, shape in halves.items()
        },
        base / "adapter/adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": ["query", "value"], "bias": "none"}
    (base / "adapter/adapter_config.json").write_text(json.dumps(config))
    Vocabulary.read(base / "bundle/vocabulary.parquet").write(base / "alone.parquet", sealed=True)


def _checkpoint(base: Path) -> None:
    """The model with pickled weights, and with weights in two files."""
    import torch
    from safetensors.torch import load_file, save_file

    whole = load_file(base / "model/model.safetensors")
    halves = {"model-1.safetensors": sorted(whole)[::2], "model-2.safetensors": sorted(whole)[1::2]}
    shutil.copytree(base / "model", base / "sharded", ignore=shutil.ignore_patterns("*.safetensors"))
    for name, tensors in halves.items():
        save_file({tensor: whole[tensor] for tensor in tensors}, base / "sharded" / name)
    places = {tensor: name for name, tensors in halves.items() for tensor in tensors}
    (base / "sharded/model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    shutil.copytree(base / "model", base / "pickled")
    torch.save(whole, base / "pickled/pytorch_model.bin")
    (base / "pickled/model.safetensors").unlink()


def _run(base: Path) -> None:
    """A finished screen with its statistics, and a compacted copy of it."""
    from rankshift.screen.engine.screener import run
    from rankshift.screen.runs.compaction import compact
    from rankshift.screen.runs.run import Run
    from rankshift.screen.runs.views import own_mode
    from rankshift.screen.stats.options import StatOptions
    from rankshift.screen.stats.statistics import record, statistics

    run(
        base / "cells.parquet",
        base / "bundle",
        base / "run",
        perturb="delete",
        max_cells=CELLS,
        dtype="float32",
        shard_tokens=2000,
    )
    opened = Run.open(base / "run")
    record(opened, statistics(opened, own_mode(opened), judging=StatOptions(min_cells=1, bootstrap=0)))
    shutil.copytree(base / "run", base / "sorted")
    compact(Run.open(base / "sorted"))
