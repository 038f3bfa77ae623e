"""`InSilicoPerturberStats` with the published options, over raw pickles of this or the published package."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from rankshift.compat.inputs import (
    PathLike,
    deviates,
    generation,
    logger,
    one_of,
    output_file,
    states_of,
    token_file,
)
from rankshift.compat.pickles import RawValues, Tokens, as_run
from rankshift.jobs.verbs.export import SUFFIX, TRIPLES
from rankshift.screen.cells.labels import label_text
from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.genes.vocabulary import Vocabulary, read_vocabulary
from rankshift.screen.runs.layout import SIMILARITY, shift_column
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.arithmetic.mixture import Mixture
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.statistics import statistics

MODES = {
    "goal_state_shift": "goal",
    "vs_null": "null",
    "mixture_model": "mixture",
    "aggregate_data": "aggregate",
    "aggregate_gene_shifts": "genes",
}
PAIR = ("similarity_first", "similarity_second", "similarity")


@dataclass
class InSilicoPerturberStats:
    """Statistics with the published options, columns and order (PS 4).

    gene_name_id_dictionary_file None leaves Gene_name empty. combos=1 reads the `_triples.pickle` files that
    `InSilicoPerturber` writes beside the raw ones; the published files hold no values for it (PS B11).
    """

    mode: str = "mixture_model"
    genes_perturbed: str | Sequence[str] = "all"
    combos: int = 0
    anchor_gene: str | None = None
    cell_states_to_model: Mapping[str, Any] | None = None
    pickle_suffix: str | None = SUFFIX
    token_dictionary_file: PathLike | None = None
    gene_name_id_dictionary_file: PathLike | None = None
    _: KW_ONLY
    model_version: str | None = None

    def __post_init__(self) -> None:
        self._vocabulary = self._check()

    def get_stats(
        self,
        input_data_directory: PathLike,
        null_dist_data_directory: PathLike | None,
        output_directory: PathLike,
        output_prefix: str,
        null_dict_list: Sequence[Mapping] | None = None,
    ) -> None:
        """Read the pickles of a folder and write {output_directory}/{output_prefix}.csv.

        vs_null compares with the pickles of null_dist_data_directory, or with the dictionaries of null_dict_list.
        """
        self._vocabulary = self._check()
        null = None
        if self.mode == "vs_null":
            if null_dict_list is not None:
                null = RawValues.merged(null_dict_list)
            elif null_dist_data_directory is None:
                raise InputError("mode 'vs_null' needs null_dist_data_directory, or null_dict_list")
            else:
                null = self._read(Path(null_dist_data_directory))
        paired = self.combos == 1 and self.mode == "mixture_model"
        values = self._read(Path(input_data_directory), TRIPLES if paired else None)
        out = output_file(output_directory, output_prefix, ".csv")
        with tempfile.TemporaryDirectory(prefix="rankshift-") as folder:
            if paired:
                with replacing(out) as temporary:
                    pairs(self._paired(values, Path(folder) / "run")).to_csv(temporary)
                return
            run = self._run(values, Path(folder) / "run")
            other = None if null is None else self._run(null, Path(folder) / "null")
            if self.mode == "mixture_model":
                deviates("the component of the lower mean is that of impact; the published one is whichever came first")
            rows = statistics(run, MODES[self.mode], null=other, reference_names=True).write(out)
        logger.info("%s: %d rows", out, rows)

    @property
    def _listed(self) -> bool:
        return not isinstance(self.genes_perturbed, str)

    def _check(self) -> Vocabulary:
        one_of("mode", self.mode, tuple(MODES))
        one_of("combos", self.combos, (0, 1))
        if not self._listed:
            one_of("genes_perturbed", self.genes_perturbed, ("all",))
        names = self.gene_name_id_dictionary_file
        vocabulary = read_vocabulary(
            token_file(self.token_dictionary_file), None, None if names is None else Path(names)
        )
        generation(self.model_version, vocabulary)
        if self.anchor_gene is not None and vocabulary.token_of(self.anchor_gene) is None:
            raise InputError(
                f"anchor_gene {self.anchor_gene} is not in {self.token_dictionary_file}: give another gene"
            )
        if self.combos == 1 and self.anchor_gene is None:
            raise InputError("combos=1 needs anchor_gene, the gene that every other one was paired with")
        if self._listed:
            unknown = [g for g in self.genes_perturbed if vocabulary.token_of(g) is None]
            if unknown:
                raise InputError(
                    f"{unknown[0]} of genes_perturbed is not in {self.token_dictionary_file}: leave it out"
                )
            if self.mode in ("vs_null", "mixture_model"):
                raise InputError(f"mode {self.mode!r} compares genes, genes_perturbed is a list: use 'all'")
        elif self.mode == "aggregate_data":
            raise InputError("mode 'aggregate_data' is for one perturbation: give genes_perturbed as its list of genes")
        if (self.mode == "goal_state_shift") != (self.cell_states_to_model is not None):
            raise InputError(
                f"cell_states_to_model belongs to mode 'goal_state_shift', mode is {self.mode!r}: give both"
            )
        if self.cell_states_to_model is not None:
            states_of(self.cell_states_to_model)
        return vocabulary

    def _read(self, folder: Path, suffix: str | None = None) -> RawValues:
        each = len(PAIR) if suffix == TRIPLES else 1
        return RawValues.read(folder, suffix or self.pickle_suffix or SUFFIX, each)

    def _run(self, values: RawValues, folder: Path) -> Run:
        """The values that the mode is about, as a run."""
        if self.mode == "goal_state_shift":
            return self._goal_run(values, folder)
        if values.states:
            raise InputError(
                f"the pickles hold shifts between states, mode {self.mode!r} needs similarities: perturb without"
            )
        cells = values.cells.get(None, {})
        if self.mode == "aggregate_gene_shifts":
            if not values.genes:
                raise InputError("the pickles hold no gene values: perturb with an emb_mode that ends in _and_gene")
            return as_run(folder, {SIMILARITY: cells}, self._vocabulary, genes=values.genes)
        if self.anchor_gene is not None and self.combos == 0:  # how near the other genes stayed under the anchor alone
            anchor = (self._vocabulary.token_of(self.anchor_gene),)
            cells = {(affected,): some for (tokens, affected), some in values.genes.items() if tokens == anchor}
            if not cells:
                raise InputError(
                    f"the pickles hold no gene values of {self.anchor_gene}: perturb it with emb_mode …_and_gene"
                )
        return as_run(folder, {SIMILARITY: self._of_list(cells)}, self._vocabulary, together=self._listed)

    def _goal_run(self, values: RawValues, folder: Path) -> Run:
        assert self.cell_states_to_model is not None
        key, start, goal, others = states_of(self.cell_states_to_model)
        by_name = {label_text(state): cells for state, cells in values.cells.items() if state is not None}
        route = [key, *(str(label_text(state)) for state in (start, goal, *others))]
        missing = [name for name in route[2:] if name not in by_name]
        if missing:
            there = ", ".join(map(repr, by_name)) or "none"
            raise InputError(
                f"the pickles hold no shifts towards {missing[0]!r}, of states there are {there}: perturb with it"
            )
        columns = {shift_column(s): self._of_list(by_name[s]) for s in route[2:]}
        return as_run(folder, columns, self._vocabulary, route=route, together=self._listed)

    def _of_list(self, cells: Mapping[Tokens, list]) -> dict[Tokens, list]:
        """All perturbations, or the one of the genes listed, in any order."""
        if not cells:
            raise InputError("the pickles hold no values of cells: give the output_directory of the perturber")
        if not self._listed:
            return dict(cells)
        wanted = {self._vocabulary.token_of(g) for g in self.genes_perturbed}
        found = {tokens: some for tokens, some in cells.items() if set(tokens) == wanted}
        if not found:
            first = "+".join(self._vocabulary.gene_of[t] for t in next(iter(cells)))
            raise InputError(f"the pickles hold no perturbation of {'+'.join(self.genes_perturbed)}, but of {first}")
        return found

    def _paired(self, values: RawValues, folder: Path) -> Run:
        cells = self._of_list(values.cells.get(None, {}))
        return as_run(
            folder,
            {name: {tokens: [t[i] for t in some] for tokens, some in cells.items()} for i, name in enumerate(PAIR)},
            self._vocabulary,
        )


def pairs(run: Run) -> pd.DataFrame:
    """mixture_model of pairs: what a gene and the anchor do together beyond their sum (PS 4.5, combos 1).

    With similarities u of the anchor alone, w of the gene alone and c of both, the sum is u + w - 1. N_Detections counts
    cells, where the published code counts keys that cell files never have.
    """
    seen = Observations.read(run, PAIR)
    anchor, gene, both = (seen.values[name].astype(np.float64) for name in PAIR)
    together = seen.mean(both)
    model = Mixture.fit(together)
    symbols, ids = (seen.names[n].to_pylist() for n in ("symbols", "gene_ids"))
    frame = pd.DataFrame(
        {
            "Gene": seen.tokens,
            "Gene_name": [None if s == g else s for s, g in zip(symbols, ids, strict=True)],
            "Ensembl_ID": ids,
            "Anchor_shift": seen.mean(anchor),
            "Test_token_shift": seen.mean(gene),
            "Sum_of_indiv_shifts": seen.mean(anchor + gene - 1),
            "Combo_shift": together,
            "Combo_minus_sum_shift": seen.mean(both - (anchor + gene - 1)),
            "Impact_component": model.impact(together).astype(np.int64),
            "Impact_component_percent": 100 * seen.mean(model.impact(both).astype(np.float64)),
            "N_Detections": seen.count,
        }
    )
    return frame.sort_values(["Impact_component", "Combo_minus_sum_shift"], ascending=[False, True], kind="stable")
