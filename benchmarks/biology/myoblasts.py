"""Known regulators of myogenic differentiation in a screen of real myoblasts, each beside genes of like rank and detection.

The score of a regulator is the share of its matched genes that it exceeds in the expected direction; the mean over regulators
is an AUROC against matched genes: 0.5 says nothing is found.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from benchmarks.biology.baselines import Expression
from benchmarks.biology.pipeline import Pipeline, effects, quiet
from rankshift.jobs.finetuning.finetune import finetune
from rankshift.jobs.finetuning.options import Finetuning
from rankshift.jobs.verbs.demo import GOAL, KEY, MYOBLASTS, START, TINY
from rankshift.screen.cells.cells import Cells
from rankshift.screen.genes.token_space import VocabularyOnly
from rankshift.screen.stats import StatOptions

REGULATORS = Path(__file__).parent / "regulators.csv"
MATCHED = 10  # genes beside every regulator: a screen of all 11,285 would take hours on a CPU, and add little
LEAST_CELLS = 3  # of a perturbation
RESAMPLES = 2000
TRAINING = replace(
    TINY, width=64, inner=128, hidden_share=0.3
)  # the demo's, narrower: most of its time goes to naming genes
FINETUNING = Finetuning(
    task="cell",
    label=(KEY,),
    epochs=5,
    batch_tokens=2048,  # four cells: many small steps, as in the pretraining
    learning_rate=5e-4,  # a narrow model needs more than the published 5e-5
)
SCREENED = {"overexpress": 8, "delete": None}  # a deletion needs the gene in the list, so all start cells are used
SCORES = {"model: shift": "shift_mean", "model: shift, adjusted": "adjusted_mean"}
SIGN = {"positive": 1, "negative": -1}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """Regulators with their matched genes. rows: int [R] into the genes. sign: 1 promotes differentiation, -1 hinders it.

    matched: int [R, MATCHED], rows of the genes nearest in mean rank and detection that are no regulators.
    """

    rows: np.ndarray
    sign: np.ndarray
    matched: np.ndarray

    @staticmethod
    def read(genes: np.ndarray, rank: np.ndarray, detection: np.ndarray) -> "Known":
        """Regulators of regulators.csv among genes [G]; those in no list are left out, as there is nothing to match."""
        with REGULATORS.open() as file:
            listed = list(csv.DictReader(file))
        number = {gene: i for i, gene in enumerate(genes)}
        if missing := [row["gene"] for row in listed if row["ensembl_id"] not in number]:
            raise ValueError(f"{', '.join(missing)}: not among the genes of the data, mend {REGULATORS.name}")
        rows = np.array([number[row["ensembl_id"]] for row in listed])
        sign = np.array([SIGN[row["direction"]] for row in listed])
        seen = detection > 0
        place = np.column_stack([rankdata(np.where(seen, rank, np.inf)), rankdata(detection)]) / len(genes)
        others = np.setdiff1d(np.flatnonzero(seen), rows)
        kept = seen[rows]
        rows, sign = rows[kept], sign[kept]
        return Known(rows=rows, sign=sign, matched=others[cKDTree(place[others]).query(place[rows], MATCHED)[1]])

    @property
    def screened(self) -> np.ndarray:
        """Rows of all genes to perturb."""
        return np.unique(np.concatenate([self.rows, self.matched.ravel()]))

    def shares(self, score: np.ndarray) -> np.ndarray:
        """Share of its matched genes that each regulator exceeds in its direction, ties half; NaN without any score [R]."""
        mine, theirs = score[self.rows, None], score[self.matched]
        better = np.where(self.sign[:, None] > 0, mine > theirs, mine < theirs) + 0.5 * (mine == theirs)
        better = np.where(np.isnan(mine) | np.isnan(theirs), np.nan, better)
        count = (~np.isnan(better)).sum(1)
        with np.errstate(invalid="ignore"):
            return np.nansum(better, 1) / np.where(count, count, np.nan)


def pipeline(folder: Path) -> Pipeline:
    """The demo's cells, tokens and way."""
    folder.mkdir(parents=True, exist_ok=True)
    out = Pipeline(
        counts=MYOBLASTS, folder=folder, keep=(KEY, "media"), input_size=512,
        state_key=KEY, start=START, goal=GOAL, layer=-1,
    )  # fmt: skip
    out.tokenize()
    return out


def places(made: Pipeline, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean rank of every gene in the lists that have it, and the share of lists that do."""
    draft = VocabularyOnly.open(made.vocabulary, made.input_size)
    cells = Cells.read(made.cells, draft)
    rank = np.arange(len(cells.ids)) - np.repeat(cells.offsets[:-1], cells.lengths)
    size = draft.vocabulary.size
    count = np.bincount(cells.ids, minlength=size)
    total = np.bincount(cells.ids, weights=rank, minlength=size)
    token = np.array([draft.vocabulary.token_of(gene) for gene in genes])
    with np.errstate(invalid="ignore"):
        return (total / count)[token], (count / len(cells))[token]


def prepared(folder: Path) -> tuple[Pipeline, Known, Expression, np.ndarray]:
    """Cells ranked, regulators matched, expression read, and the mean rank of every gene."""
    made = pipeline(folder)
    expression = Expression.read(anndata.read_h5ad(MYOBLASTS), KEY)
    rank, detection = places(made, expression.genes)
    return made, Known.read(expression.genes, rank, detection), expression, rank


def baselines(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of what needs no model: positive for higher in later cells."""
    _, known, expression, rank = prepared(folder)
    scores = {
        "co-expression with hours": expression.correlation(expression.state.astype(float)),
        **expression.difference(START, GOAL),
        "differential detection": expression.detection_difference(START, GOAL),
        "mean rank": -rank,
    }
    for name, score in scores.items():
        yield from _rows(known, name, "", known.shares(score)[None])
    chance = np.random.default_rng(0).random((20, len(rank)))
    yield from _rows(known, "random", "", np.array([known.shares(score) for score in chance]))


def pretrained(folder: Path, seeds: int) -> Iterator[dict[str, Any]]:
    """Rows of the masked-gene model, pretrained on the cells from several seeds."""
    made, known, expression, _ = prepared(folder)
    bundles = [made.pretrain(replace(TRAINING, seed=seed)) for seed in range(seeds)]
    yield from _screens(made, bundles, known, expression.genes)


def finetuned(folder: Path, seeds: int) -> Iterator[dict[str, Any]]:
    """Rows of the same models after learning to tell the hours of a cell."""
    made, known, expression, _ = prepared(folder)
    bundles = []
    for seed in range(seeds):
        bundle = folder / f"finetuned{seed}"
        if not bundle.exists():
            base = made.pretrain(replace(TRAINING, seed=seed))
            finetune(made.cells, base, bundle, replace(FINETUNING, seed=seed), resume=True, say=quiet)
        bundles.append(bundle)
    yield from _screens(made, bundles, known, expression.genes)


def _screens(made: Pipeline, bundles: list[Path], known: Known, genes: np.ndarray) -> Iterator[dict[str, Any]]:
    """Rows of every bundle by itself, and of all together, where the interval resamples bundles, too."""
    for kind, most in SCREENED.items():
        sign = -1 if kind == "delete" else 1
        tables = []
        for bundle in bundles:
            run = made.screen(bundle, kind, genes=list(genes[known.screened]), max_cells=most)
            table = effects(run, judging=StatOptions(bootstrap=0, min_cells=LEAST_CELLS))
            tables.append(table[table["enough_cells"]].reindex(genes))
        for label, column in SCORES.items():
            shares = [known.shares(sign * table[column].to_numpy(float)) for table in tables]
            for seed, one in enumerate(shares):
                yield from _rows(known, label, kind, one[None], seed=str(seed))
            yield from _rows(known, label, kind, np.array(shares), seed="all")


def _rows(known: Known, name: str, kind: str, shares: np.ndarray, seed: str = "") -> Iterator[dict[str, Any]]:
    """AUROC with its interval for those that promote, those that hinder, and both. shares [seeds, R]."""
    rng = np.random.default_rng(0)
    for direction, some in (
        ("both", known.sign != 0), ("positive", known.sign > 0), ("negative", known.sign < 0),
    ):  # fmt: skip
        values = shares[:, some]
        values = values[:, ~np.isnan(values).all(0)]
        drawn = []
        for _ in range(RESAMPLES):
            of = rng.integers(0, len(values), len(values))
            drawn.append(np.nanmean(values[of][:, rng.integers(0, values.shape[1], values.shape[1])]))
        low, high = np.quantile(drawn, (0.025, 0.975))
        yield {
            "perturb": kind, "score": name, "others": f"matched, {direction}", "seed": seed,
            "auroc": float(np.nanmean(values)), "low": float(low), "high": float(high),
            "positives": values.shape[1], "negatives": MATCHED,
        }  # fmt: skip
