"""Planted truth: do the masters of a drawn network rank on top of a screen, and are p-values uniform where nothing drives?

Deletion in start cells should point at the masters that hold the start state, overexpression at those of the goal state.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy.stats import kstest

from benchmarks.biology.baselines import Expression
from benchmarks.biology.pipeline import Pipeline, effects
from benchmarks.biology.ranking import alike, area
from rankshift.jobs.cohort.planted.demo import TRAINING
from rankshift.jobs.cohort.planted.network import GOAL, START, Network
from rankshift.jobs.pretraining.pretrain import Pretraining
from rankshift.screen.stats import StatOptions

KINDS = ("delete", "overexpress")
SHIFT, CHANGE = "model: shift", "model: any change"
SCORES = {SHIFT: "shift_mean", "model: shift, adjusted": "adjusted_mean", "model: shift, matched z": "matched_z"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A network, how an encoder is trained on its cells, how long their lists are, and how many start cells are screened."""

    network: Network
    training: Pretraining = TRAINING
    input_size: int = 128
    screened: int = 30

    def seeded(self, seed: int) -> "Trial":
        """The same with other random numbers everywhere."""
        return replace(self, network=replace(self.network, seed=seed), training=replace(self.training, seed=seed))

    def pipeline(self, folder: Path) -> Pipeline:
        """Cells drawn into `folder` and ranked."""
        folder.mkdir(parents=True, exist_ok=True)
        counts = folder / "counts.h5ad"
        if not counts.exists():
            self.network.write(counts)
        out = Pipeline(
            counts=counts, folder=folder, keep=("state", "donor"), input_size=self.input_size,
            state_key="state", start=START, goal=GOAL,
        )  # fmt: skip
        out.tokenize()
        return out


CASES = {
    "as documented": Network(),
    "faint masters": Network(master_base=-1.5),  # expressed a quarter as much: often no count even where they are on
    "many bystanders": Network(medium=104, others=30),  # as different as masters, and nothing listens to them
    "faithful targets": Network(noise=(0.1, 0.2)),  # targets repeat their masters with little noise
}
# Nothing drives; more genes, for the KS test, and short training: a longer one has nothing to learn.
NULL = Trial(
    network=Network(targets=600, medium=50, others=344, depth=2000, cells=540, drives=False),
    training=replace(TRAINING, epochs=4),
    screened=180,  # all cells of a state, because a gene is in one list of eight
)


def regulators(trial: Trial, folder: Path) -> Iterator[dict[str, Any]]:
    """A row per perturbation, score and set of other genes: AUROC of the masters that a screen should find.

    `others` is all, or "as different": the 20 genes nearest to any of these masters in differential expression, signed.
    """
    pipeline = trial.pipeline(folder)
    bundle = pipeline.pretrain(trial.training)
    data = anndata.read_h5ad(pipeline.counts)
    expression = Expression.read(data, "state")
    genes, program = pd.Index(expression.genes), data.var["program"].to_numpy()
    different = expression.difference(START, GOAL)
    for kind in KINDS:
        named = "all" if kind == "delete" else list(genes)  # a gene that a cell lacks can be put to its front, too
        table = effects(pipeline.screen(bundle, kind, genes=named, max_cells=trial.screened)).reindex(genes)
        known, sign = (program == 0, -1) if kind == "delete" else (program == 1, 1)
        scores = {name: table[column].to_numpy(float) for name, column in SCORES.items()}
        scores[CHANGE] = -table["similarity_mean"].to_numpy(float)
        scores |= {name: sign * values for name, values in different.items()}
        scores["co-expression with all genes"] = expression.hubs(within_states=False)
        scores["co-expression within states"] = expression.hubs(within_states=True)
        scores["mean expression"] = expression.mean()
        scores["rarity in start cells"] = -(expression.level[expression.state == START] > 0).mean(0)
        scores["random"] = np.random.default_rng(trial.network.seed).random(len(genes))
        near = alike(known, different["differential expression, t"], count=20)
        for others, among in (("all", np.ones(len(genes), bool)), ("as different", near)):
            for name, values in scores.items():
                yield {"perturb": kind, "score": name, "others": others, **asdict(area(values, known, among))}


def uniformity(trial: Trial, folder: Path) -> Iterator[dict[str, Any]]:
    """A row per column of p-values: Kolmogorov-Smirnov test against the uniform over genes, where nothing drives anything.

    Deletion in start cells towards the goal, by mode goal; and their similarities against those of goal cells, by mode null.
    """
    pipeline = trial.pipeline(folder)
    bundle = pipeline.pretrain(trial.training)
    run = pipeline.screen(bundle, "delete", genes="all", max_cells=trial.screened)
    other = pipeline.screen(bundle, "delete", genes="all", max_cells=trial.screened, start=GOAL)
    goal = effects(run, judging=StatOptions(bootstrap=0, by="donor"))
    columns = {
        "goal: matched_p_value": spread_out(goal["matched_p_value"].dropna().to_numpy(), goal["matched_p_floor"].min()),
        "null: p_value": effects(run, "null", null=other, judging=StatOptions())["p_value"],
        **{f"goal: {name}": goal[name] for name in ("p_value", "adjusted_p_value", "balanced_p_value")},
    }
    for name, p in columns.items():
        p = np.asarray(p, float)
        p = p[~np.isnan(p)]
        test = kstest(p, "uniform")
        yield {
            "perturb": "delete", "score": name, "genes": len(p), "ks": float(test.statistic),
            "ks_p": float(test.pvalue), "below_0.05": float((p < 0.05).mean()),
        }  # fmt: skip


def spread_out(p: np.ndarray, floor: float, seed: int = 0) -> np.ndarray:
    """Empirical two-sided p-values made continuous: each drawn between itself and the next smaller one there can be.

    Those of mode goal are multiples of `floor`, at most 1; exact ones are uniform after this, and a KS test can judge them.
    """
    below = np.maximum(np.ceil(p / floor - 1e-6) - 1, 0) * floor
    return below + np.random.default_rng(seed).random(len(p)) * (p - below)
