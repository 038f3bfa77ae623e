"""`InSilicoPerturber` with the published options and files, run as a screen.

A list of genes is one joint perturbation, "all" perturbs each gene by itself, combos=1 each gene together with the anchor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rankshift.compat.inputs import (
    PathLike,
    count,
    deviates,
    framing,
    generation,
    lists,
    logger,
    matching,
    model_type,
    one_of,
    states_of,
    token_file,
    workplace,
)
from rankshift.jobs.verbs.export import SUFFIX, export
from rankshift.jobs.verbs.screen import run_screen
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.labels import label_text
from rankshift.screen.cells.select import select
from rankshift.screen.embed.states import write_states
from rankshift.screen.engine.options import Options
from rankshift.screen.errors import InputError
from rankshift.screen.genes.vocabulary import Vocabulary, read_vocabulary
from rankshift.screen.perturb.kinds import KINDS
from rankshift.screen.runs.run import Run

MODES = ("cls", "cell", "cls_and_gene", "cell_and_gene")


@dataclass
class InSilicoPerturber:
    """In-silico perturbation with the published options (PS 2.1; docs/migrating.md has a table of them).

    Without effect here: num_classes, cell_emb_style, forward_batch_size, nproc, clear_mem_ncells. Our own, all optional:

    workers: Ray workers, None for what the machine has, 0 for this process. dtype: of matrix products, as `rankshift
    screen --dtype`; float32 is that of the published code. reference_overflow: count absent genes twice when an
    overexpression overflows, as published (PS B2). reference_labels: file gene values of an overexpression of all genes
    under the gene behind their own, as published (PS B1). run_directory: keep the run there, for `rankshift query`; a run
    there that was stopped goes on.

    >>> InSilicoPerturber(perturb_type="delete", token_dictionary_file=None)
    Traceback (most recent call last):
    rankshift.screen.errors.InputError: token_dictionary_file is None, and the published dictionaries are not shipped ...
    """

    perturb_type: str = "delete"
    perturb_rank_shift: int | None = None
    genes_to_perturb: str | Sequence[str] = "all"
    combos: int = 0
    anchor_gene: str | None = None
    model_type: str = "Pretrained"
    num_classes: int = 0
    emb_mode: str = "cls"
    cell_emb_style: str = "mean_pool"
    filter_data: Mapping[str, Any] | None = None
    cell_states_to_model: Mapping[str, Any] | None = None
    state_embs_dict: Mapping[Any, Any] | None = None
    max_ncells: int | None = None
    cell_inds_to_perturb: str | Mapping[str, int] = "all"
    emb_layer: int = -1
    forward_batch_size: int = 100
    nproc: int = 4
    token_dictionary_file: PathLike | None = None
    clear_mem_ncells: int = 1000
    _: KW_ONLY
    model_version: str | None = None
    workers: int | None = None
    dtype: str = "float32"
    reference_overflow: bool = True
    reference_labels: bool = False
    run_directory: PathLike | None = None

    def __post_init__(self) -> None:
        self._vocabulary = self._check()

    def perturb_data(
        self,
        model_directory: PathLike,
        input_data_file: PathLike,
        output_directory: PathLike,
        output_prefix: str,
    ) -> None:
        """Perturb the cells of a .dataset folder or token table and write the raw pickles of PS 3.6.

        Raises InputError on anything that does not fit; no file is left then.
        """
        self._vocabulary = self._check()  # attributes may have been set since
        out = Path(output_directory)
        stale = sum(1 for _ in out.glob(f"*{SUFFIX}"))
        if stale:
            deviates(f"{out} holds {stale} raw pickles already: statistics merge all of a folder")
        with workplace(model_directory, token_file(self.token_dictionary_file), out) as (folder, bundle):
            cells, first = self._cells(Path(input_data_file), bundle)
            cells.write(folder / "cells.parquet", bundle.vocabulary)
            run = self._screen(folder, bundle)
            export(
                run.path,
                out,
                prefix=output_prefix,
                first_cell=first,
                shifted_labels=self.reference_labels,
                beside=True,
                say=logger.info,
            )

    @property
    def _listed(self) -> bool:
        return not isinstance(self.genes_to_perturb, str)

    @property
    def _anchor(self) -> str | None:
        return self.anchor_gene if self.combos == 1 and not self._listed else None

    def _check(self) -> Vocabulary:
        one_of("perturb_type", self.perturb_type, tuple(KINDS))
        one_of("emb_mode", self.emb_mode, MODES)
        one_of("combos", self.combos, (0, 1))
        one_of("cell_emb_style", self.cell_emb_style, ("mean_pool",))
        one_of("emb_layer", self.emb_layer, (-1, 0))
        one_of("perturb_rank_shift", self.perturb_rank_shift, (None, 1, 2, 3))
        model_type(self.model_type)
        count("max_ncells", self.max_ncells, none=True)
        for name in ("forward_batch_size", "nproc", "clear_mem_ncells"):
            count(name, getattr(self, name))
        vocabulary = read_vocabulary(token_file(self.token_dictionary_file))
        generation(self.model_version, vocabulary)
        if "cls" in self.emb_mode and vocabulary.special.cls is None:
            other = self.emb_mode.replace("cls", "cell")
            raise InputError(
                f"emb_mode {self.emb_mode!r} needs <cls>, {self.token_dictionary_file} has none: use {other!r}"
            )
        lists(self.filter_data)
        self._slice(None)
        self._check_genes(vocabulary)
        self._check_states()
        return vocabulary

    def _check_genes(self, vocabulary: Vocabulary) -> None:
        if self.perturb_rank_shift is not None and not KINDS[self.perturb_type].moves:
            deviates(f"perturb_rank_shift has no meaning for {self.perturb_type} and is ignored")
        if not self._listed:
            one_of("genes_to_perturb", self.genes_to_perturb, ("all",))
            if self.combos == 1 and self.anchor_gene is None:
                raise InputError("combos=1 needs anchor_gene, the gene that every other one is paired with")
            if self.combos == 0 and self.anchor_gene is not None:
                raise InputError(
                    f"anchor_gene {self.anchor_gene} makes pairs with combos=1 only: set it, or leave it out"
                )
            if self.anchor_gene is not None and vocabulary.token_of(self.anchor_gene) is None:
                raise InputError(
                    f"anchor_gene {self.anchor_gene} is not in {self.token_dictionary_file}: give another gene"
                )
            return
        names = list(self.genes_to_perturb)
        if not names:
            raise InputError("genes_to_perturb is an empty list: name a gene, or give 'all'")
        if self.combos or self.anchor_gene is not None:
            deviates("combos and anchor_gene are ignored with a list of genes, which are perturbed all together")
        if KINDS[self.perturb_type].moves and len(names) > 1:
            raise InputError(f"{self.perturb_type} moves one gene at a time, {len(names)} are listed: give one")
        unknown = [g for g in names if vocabulary.token_of(g) is None]
        if len(unknown) == len(names):
            raise InputError(
                f"none of the {len(names)} genes to perturb is in {self.token_dictionary_file}: {unknown[0]}, …"
            )
        if unknown:
            deviates(
                f"{len(unknown)} genes are not in the token dictionary and are left out: {', '.join(unknown[:10])}"
            )
        if len(set(names)) < len(names):
            deviates("genes_to_perturb names a gene twice; it is perturbed once")

    def _check_states(self) -> None:
        if self.cell_states_to_model is None:
            return
        _, *route = states_of(self.cell_states_to_model)
        if self.state_embs_dict is None:
            raise InputError("cell_states_to_model needs state_embs_dict: make it with EmbExtractor.get_state_embs")
        missing = [s for s in (*route[:2], *route[2]) if s not in self.state_embs_dict]
        if missing:
            there = ", ".join(map(repr, self.state_embs_dict))
            raise InputError(
                f"state {missing[0]!r} is not in state_embs_dict, which has {there}: embed that state, too"
            )
        if self._anchor is not None:
            deviates("shifts between states are those of the pairs; the published code drops the anchor without a word")

    def _slice(self, cells: int | None) -> slice:
        """The selected cells to perturb, from start and end, or start_ind and end_ind as published notes say (PS B19)."""
        given = self.cell_inds_to_perturb
        if isinstance(given, str):
            one_of("cell_inds_to_perturb", given, ("all",))
            return slice(0, cells)
        start, end = given.get("start", given.get("start_ind")), given.get("end", given.get("end_ind"))
        if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end:
            raise InputError(
                f"cell_inds_to_perturb is {dict(given)}: give 'all' or {{'start': n, 'end': m}} with 0 <= n < m"
            )
        if cells is not None and start >= cells:
            raise InputError(f"cell_inds_to_perturb starts at {start}, there are {cells} cells: start below that")
        return slice(start, end)

    def _cells(self, path: Path, bundle: Bundle) -> tuple[Cells, int]:
        """The cells to perturb in processing order (PS 2.2), and the number of the first in file names."""
        cells = matching(Cells.read(path, bundle), lists(self.filter_data))
        for note in cells.notes:
            logger.info(note)
        framing(cells, self.emb_mode)
        key = start = None
        if self.cell_states_to_model is not None:
            key, start, _, _ = states_of(self.cell_states_to_model)
        wanted = None
        if self._anchor is not None:
            wanted = self._tokens([self._anchor])
        elif self._listed and self.perturb_type == "delete":
            wanted = self._tokens(self.genes_to_perturb)
        rows = select(
            cells,
            state_key=key,
            start=label_text(start),
            contains=wanted,
            max_cells=self.max_ncells,
        )
        part = self._slice(len(rows))
        if part.start:
            deviates(f"files count cells from {part.start}, so that slices of one prefix do not overwrite each other")
        return cells.take(rows[part]), part.start

    def _tokens(self, genes: Sequence[str]) -> list[int]:
        found = (self._vocabulary.token_of(g) for g in genes)
        return [token for token in found if token is not None]

    def _screen(self, folder: Path, bundle: Bundle) -> Run:
        kind = KINDS[self.perturb_type]
        how = "pairs" if self._anchor is not None else "together" if self._listed and not kind.moves else "each"
        route: dict[str, Any] = {}
        if self.cell_states_to_model is not None:
            key, start, goal, others = states_of(self.cell_states_to_model)
            assert self.state_embs_dict is not None
            first, second, *more = (str(label_text(s)) for s in (start, goal, *others))
            vectors = [_vector(s, self.state_embs_dict[s]) for s in (start, goal, *others)]
            write_states(dict(zip((first, second, *more), vectors, strict=True)), folder / "states.json")
            route = {"state_key": key, "start": first, "goal": second, "alt": tuple(more)}
            route["states"] = folder / "states.json"
        options = Options(
            perturb=self.perturb_type,
            genes=list(self.genes_to_perturb) if self._listed else "all",
            how=how,
            anchor=self._anchor,
            rank_shift=self.perturb_rank_shift if kind.moves else None,
            embedding=self.emb_mode.split("_")[0],
            gene_shifts="gene" in self.emb_mode,
            per_cell="gene" in self.emb_mode,
            layer=self.emb_layer,
            dtype=self.dtype,
            reference_overflow=self.reference_overflow and "reference_overflow" in kind.options,
            **route,
        )
        out = folder / "run" if self.run_directory is None else Path(self.run_directory)
        return run_screen(
            folder / "cells.parquet",
            bundle.path,
            out,
            options,
            workers=self.workers,
            resume=out.exists(),
            say=logger.info,
        )


def _vector(state: Any, value: Any) -> np.ndarray:
    """A state embedding as float32 (d,); tensors may be (1, d), on any device."""
    try:
        tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
        return tensor.to(torch.float32).reshape(-1).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"state_embs_dict[{state!r}] is no vector of numbers: embed the state again") from error
