"""The options of the published `Classifier`, checked, and what they say of the cells: classes, cuts, training.

Nothing is trained or written here.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sklearn.model_selection import StratifiedKFold

from rankshift.compat.inputs import (
    PathLike,
    count,
    generation,
    lists,
    one_of,
    token_file,
    workplace,
)
from rankshift.compat.training.arguments import training_args
from rankshift.compat.training.cuts import Cut, at_random, balanced, by_ids, folds, shuffled
from rankshift.compat.training.learning import LABEL, cell_classes, gene_classes
from rankshift.jobs.finetuning.labels.gene_labels import GeneLabels
from rankshift.jobs.finetuning.labels.labels import CellLabels
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.labels import labels_of
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.genes.vocabulary import Vocabulary, read_vocabulary

SPLIT = {"train": 0.8, "valid": 0.1, "test": 0.1}
LEAST_GENES = 5  # of a class that is (cross-)validated, as published
QLORA = 64  # rank of adapters on a quantized encoder, as published
WARM = {6: 500}  # steps of warm-up by default, by layers, as published; none for other depths
NO_LIMIT = 2**31 - 1


@dataclass
class Classification:
    """Options of the published classifier, in its order."""

    classifier: str | None = None
    quantize: bool | Mapping[str, Any] = False
    cell_state_dict: Mapping[str, Any] | None = None
    gene_class_dict: Mapping[str, Sequence[str]] | None = None
    filter_data: Mapping[str, Any] | None = None
    rare_threshold: float = 0
    max_ncells: int | None = None
    max_ncells_per_class: int | None = None
    training_args: Mapping[str, Any] | None = None
    ray_config: Mapping[str, Any] | None = None
    freeze_layers: int = 0
    num_crossval_splits: int = 1
    split_sizes: Mapping[str, float] | None = field(default_factory=lambda: dict(SPLIT))
    stratify_splits_col: str | None = None
    no_eval: bool = False
    forward_batch_size: int = 100
    model_version: str | None = None
    token_dictionary_file: PathLike | None = None
    nproc: int = 4
    ngpu: int = 1

    def __post_init__(self) -> None:
        self._vocabulary = self._check()

    @property
    def _cells(self) -> bool:
        return self.classifier == "cell"

    @property
    def _sizes(self) -> dict[str, float]:
        return {**SPLIT, **(self.split_sizes or {})}

    def _check(self) -> Vocabulary:
        one_of("classifier", self.classifier, ("cell", "gene"))
        one_of("num_crossval_splits", self.num_crossval_splits, (0, 1, 5))
        for name in ("max_ncells", "max_ncells_per_class"):
            count(name, getattr(self, name), none=True)
        for name in ("forward_batch_size", "nproc", "ngpu"):
            count(name, getattr(self, name))
        if not isinstance(self.freeze_layers, int) or self.freeze_layers < 0:
            raise InputError(f"freeze_layers is {self.freeze_layers!r}: give a number of layers from 0")
        if not 0 <= self.rare_threshold < 1:
            raise InputError(f"rare_threshold is {self.rare_threshold}: give a share of the cells from 0 to below 1")
        self._check_sizes()
        self._check_training()
        vocabulary = read_vocabulary(token_file(self.token_dictionary_file))
        generation(self.model_version, vocabulary)
        lists(self.filter_data)
        (self._check_states if self._cells else self._check_genes)()
        return vocabulary

    def _check_sizes(self) -> None:
        sizes = self._sizes
        if set(sizes) != set(SPLIT) or any(not 0 <= size < 1 for size in sizes.values()) or not sizes["train"]:
            raise InputError(f"split_sizes is {dict(self.split_sizes or {})}: give shares of train, valid and test")
        if not math.isclose(sum(sizes.values()), 1, abs_tol=1e-6):
            raise InputError(f"split_sizes add up to {sum(sizes.values()):g}: give shares that add up to 1")

    def _check_training(self) -> None:
        if self.ray_config is not None:
            raise InputError(
                "ray_config is for searches, which are not here: leave it out (`rankshift finetune --tune`)"
            )
        if isinstance(self.quantize, Mapping):
            raise InputError("quantize is a dictionary: give True (4 bits, adapters of rank 64, as published) or False")
        if self.quantize and not torch.cuda.is_available():
            raise InputError("quantize=True needs a CUDA GPU, here is none: set quantize=False")
        if self.training_args is not None and not isinstance(self.training_args, Mapping):
            raise InputError(f"training_args is a {type(self.training_args).__name__}: give a dictionary or None")

    def _check_states(self) -> None:
        given = self.cell_state_dict
        if self.gene_class_dict is not None:
            raise InputError("gene_class_dict is of classifier='gene': leave it out")
        if not isinstance(given, Mapping) or set(given) != {"state_key", "states"}:
            raise InputError(f"cell_state_dict is {given!r}: give {{'state_key': column, 'states': 'all' or a list}}")
        states = given["states"]
        if states != "all" and (not isinstance(states, list | tuple) or len(states) < 2):
            raise InputError(f"cell_state_dict['states'] is {states!r}: give 'all' or a list of at least 2 states")

    def _check_genes(self) -> None:
        given = self.gene_class_dict
        if self.cell_state_dict is not None:
            raise InputError("cell_state_dict is of classifier='cell': leave it out")
        for name, value in (
            ("rare_threshold", self.rare_threshold),
            ("max_ncells_per_class", self.max_ncells_per_class),
        ):
            if value:
                raise InputError(f"{name} is of classifier='cell': leave it out")
        if not isinstance(given, Mapping) or len(given) < 2 or any(isinstance(genes, str) for genes in given.values()):
            raise InputError("gene_class_dict must be {class: [Ensembl ids]} with at least 2 classes: give that")

    def _filters(self) -> dict[str, list]:
        wanted = lists(self.filter_data)
        if self.cell_state_dict is not None and self.cell_state_dict["states"] != "all":
            wanted[self.cell_state_dict["state_key"]] = list(self.cell_state_dict["states"])
        return wanted

    def _labelled(self, cells: Cells) -> tuple[Cells, list[str]]:
        """The cells to use, shuffled, their state replaced by `label`, and the names of the classes by id."""
        assert self.cell_state_dict is not None
        key = str(self.cell_state_dict["state_key"])
        states = np.array(labels_of(cells.obs, key, "cell_state_dict['state_key']").to_pylist(), object)
        rows = np.flatnonzero(states != None)  # noqa: E711 (elementwise)
        names, of, size = np.unique(states[rows].astype(str), return_inverse=True, return_counts=True)
        rows = rows[size[of] >= self.rare_threshold * len(rows)]
        rows = rows[shuffled(len(rows))][: self.max_ncells]
        if self.max_ncells_per_class is not None:
            place = {name: np.flatnonzero(states[rows] == name) for name in names}
            rows = rows[np.sort(np.concatenate([at[: self.max_ncells_per_class] for at in place.values()]))]
        names, ids = np.unique(states[rows].astype(str), return_inverse=True)
        if len(names) < 2:
            raise InputError(f"{key} has {len(names)} class after filtering, at least 2 are needed: filter less")
        chosen = cells.take(rows)
        obs = chosen.obs.drop_columns([key]).append_column(LABEL, pa.array(ids, pa.int64()))
        return replace(chosen, obs=obs), [str(name) for name in names]

    def _holding(self, cells: Cells) -> Cells:
        """The cells that hold one of the genes, shuffled."""
        assert self.gene_class_dict is not None
        tokens = [self._vocabulary.token_of(str(gene)) for genes in self.gene_class_dict.values() for gene in genes]
        wanted = np.isin(cells.ids, [token for token in tokens if token is not None])
        rows = np.flatnonzero(np.logical_or.reduceat(wanted, cells.offsets[:-1]))
        if not len(rows):
            raise InputError("no cell holds a gene of gene_class_dict: give Ensembl ids of the token dictionary")
        return cells.take(rows[shuffled(len(rows))])

    def _read(
        self, file: PathLike, bundle: Bundle, names: Sequence[str], *, cap: bool = True
    ) -> tuple[Cells, CellLabels | GeneLabels, Finetuning]:
        """Prepared cells, their classes, and the recipe. cap: use at most max_ncells of a gene classifier's cells."""
        cells = Cells.read(Path(file), bundle)
        cells = cells.take(shuffled(len(cells)))
        if self._cells:
            return cells, cell_classes(cells, names), self._options(bundle, cells)
        assert self.gene_class_dict is not None
        if set(map(str, self.gene_class_dict)) != set(names):
            raise InputError(
                f"gene_class_dict has {', '.join(map(str, self.gene_class_dict))}, the file {', '.join(names)}"
            )
        cells = self._holding(cells)
        if cap and self.max_ncells is not None:
            cells = cells.take(np.arange(min(self.max_ncells, len(cells))))
        wanted = {str(name): [str(gene) for gene in genes] for name, genes in self.gene_class_dict.items()}
        return cells, gene_classes(cells, wanted, names, bundle.vocabulary), self._options(bundle, cells)

    def _options(self, bundle: Bundle, cells: Cells) -> Finetuning:
        layers = bundle.sizes.layers
        if self.freeze_layers > layers:
            raise InputError(f"freeze_layers is {self.freeze_layers}, the model has {layers} layers: give at most that")
        default = {"num_train_epochs": 10.0 if self._cells else 1.0, "weight_decay": 0.001}
        default |= {"per_device_train_batch_size": 12, "warmup_steps": WARM.get(layers, 0)}
        given = training_args(self.training_args or {}, "training_args", **default)
        task: dict[str, Any] = {"task": "cell", "label": (LABEL,)} if self._cells else {"task": "gene", "genes": Path()}
        return Finetuning(
            **task,
            **given.recipe,
            epochs=given.epochs,
            batch_tokens=given.step_cells * int(cells.lengths.max()),
            freeze=self.freeze_layers,
            lora=QLORA if self.quantize else None,
            quantize=bool(self.quantize),
        )

    def _cut(
        self,
        cells: Cells,
        share: float,
        judge: str,
        ids: Mapping[str, Any] | None,
        unit: str | None,
        balance: Sequence[str] | None,
        trials: int,
        limit: float,
        table: Path,
    ) -> Cut | None:
        """One cut of labelled cells, by the first of ids, unit and chance that is given; None where nothing is cut off."""
        if ids is not None:
            return by_ids(cells.obs, ids, judge)
        if not share:
            return None
        if unit is not None:
            classes = np.asarray(cells.obs.column(LABEL))
            cut, found = balanced(cells.obs, classes, unit, balance or (), share, trials, limit)
            with replacing(table) as temporary:
                found.to_csv(temporary)
            return cut
        if balance:
            raise InputError("attr_to_balance needs attr_to_split, the units that are never split: give both")
        column = self.stratify_splits_col
        strata = None if column is None else labels_of(cells.obs, column, "stratify_splits_col").to_pylist()
        return at_random(len(cells), share, strata)

    def _cell_cuts(
        self,
        cells: Cells,
        ids: Mapping[str, Any] | None,
        unit: str | None,
        balance: Sequence[str] | None,
        trials: int,
        limit: float,
        table: Path,
    ) -> list[Cut]:
        sizes = self._sizes
        share = sizes["valid"] / (sizes["train"] + sizes["valid"])
        if self.num_crossval_splits > 1:
            if ids is not None or unit is not None:
                raise InputError("split_id_dict and attr_to_split are one cut, num_crossval_splits is 5: set it to 1")
            return folds(len(cells), share, self.num_crossval_splits)
        cut = self._cut(cells, share, "eval", ids, unit, balance, trials, limit, table)
        if cut is None:
            raise InputError("split_sizes['valid'] is 0, there is nothing to validate with: call train_all_data")
        return [cut]

    def _gene_cuts(self, labels: GeneLabels) -> list[Cut]:
        """Stratified folds over genes, as many as the share that is not learnt from makes, of which the first are used."""
        size = np.bincount(labels.values, minlength=len(labels.task.classes))
        if size.min() < LEAST_GENES:
            name = labels.task.classes[int(size.argmin())]
            raise InputError(
                f"class {name!r} has {size.min()} genes in the cells, at least {LEAST_GENES} are needed to validate: add genes"
            )
        number = max(2, int(1 / (1 - self._sizes["train"]) + 1e-9))
        if self.num_crossval_splits > number:
            raise InputError(
                f"split_sizes leave {number} folds of genes, num_crossval_splits is {self.num_crossval_splits}: "
                "set train to 0.8"
            )
        splitter = StratifiedKFold(n_splits=number, shuffle=True, random_state=0)
        return list(splitter.split(labels.tokens, labels.values))[: self.num_crossval_splits]

    @contextmanager
    def _at(self, model: PathLike, directory: PathLike, prefix: str) -> Iterator[tuple[Path, Bundle, Path]]:
        """A temporary folder, the model as a bundle in it, and the published folder of the results, which must be new."""
        out = Path(directory) / f"{datetime.now():%y%m%d}_geneformer_{self.classifier}Classifier_{prefix}"
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out} holds results already: remove it, or give another output_prefix")
        with workplace(model, token_file(self.token_dictionary_file), directory) as (folder, bundle):
            yield folder, bundle, out
