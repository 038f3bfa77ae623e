"""Cells drawn from a known gene regulatory network: two groups of master regulators hold each other down and drive targets.

Masters, half of program A (on in state `start`) and half of program B (on in `goal`), are on or off: x_m = 1 or -1. Starting
from the pattern of their state they are drawn anew one after the other, `sweeps` times over (Glauber dynamics of a toggle):

    P(x_m = 1) = 1 / (1 + exp(-beta (mean of x over the others of its program - mean of x over the other program)))

Above beta = 1 there are two stable states, in which single masters still fail. A target has `regulators` masters of
any program and answers to them by a threshold, with weights w of either sign and size 0.7 to 1.3:

    y_t = tanh(sum_m w_tm x_m)

Genes of the medium follow the state alone, z_g = 1 or -1 with nine in ten cells of a state alike: they are as different
between the states as regulators are, and nothing listens to them. The other genes follow nothing (signal 0).

    log mu_gc = base_g + donor_gd + gain_g * signal_gc + noise_g * normal_gc
    count_gc ~ Poisson(depth_c * share_gc * Gamma(mean 1, variance dispersion)),  share_gc = mu_gc / sum over genes of mu

Of that share, `ambient` is not the cell's own but the mean of the cells of its donor, as RNA in the droplets is.

which is negative binomial given mu. `drives=False` is the null: the same genes, each gene's signal dealt to the cells at
random and apart from all others, so that nothing drives anything and the states are labels only.
"""

from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import scipy.sparse as sp

START, GOAL, ELSEWHERE = "start", "goal", "elsewhere"
STATES = (START, GOAL, ELSEWHERE)
MASTER, TARGET, MEDIUM, OTHER = "master", "target", "medium", "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What to draw: numbers of genes of each kind, and the parameters of the equations above.

    gain, noise: ranges that a gene's own are drawn from, in natural logs. base_sd, donor_sd: spread over genes, and over
    donors. depth: counts of a cell, geometric mean, with depth_sd between cells. Every donor has as many cells of each
    state. sizes: cells of each donor relative to the others, None for as many of all. ambient: share of the counts that is of
    the donor's other cells.
    """

    masters: int = 6
    targets: int = 260
    medium: int = 14
    others: int = 120
    regulators: tuple[int, int] = (2, 3)  # at least and at most
    beta: float = 1.6  # a master is as its program in nine cells of ten
    sweeps: int = 4
    gain: tuple[float, float] = (0.7, 1.5)
    master_gain: float = 1.5  # on is e^3 = 20 times off
    master_base: float = 0.0  # the typical gene's
    noise: tuple[float, float] = (0.3, 0.7)
    base_sd: float = 0.8
    donor_sd: float = 0.15
    dispersion: float = 0.15
    depth: float = 800.0
    depth_sd: float = 0.25
    donors: int = 6
    cells: int = 3000
    drives: bool = True
    sizes: tuple[float, ...] | None = None
    ambient: float = 0.0
    seed: int = 0

    @property
    def kinds(self) -> np.ndarray:
        """Kind of every gene, str [G]."""
        return np.repeat((MASTER, TARGET, MEDIUM, OTHER), (self.masters, self.targets, self.medium, self.others))

    @property
    def first(self) -> dict[str, int]:
        """Number of the first gene of every kind."""
        return {kind: int(np.argmax(self.kinds == kind)) for kind in (MASTER, TARGET, MEDIUM, OTHER)}

    @property
    def program(self) -> np.ndarray:
        """Program of every master: 0 is on in the start state, 1 in the goal state, int [M]."""
        return np.arange(self.masters) * 2 // self.masters

    def write(self, path: Path) -> None:
        """Draw the cells into an h5ad: counts; obs state, donor, n_counts; var ensembl_id, gene_name, kind, program."""
        rng = np.random.default_rng(self.seed)
        kind, genes = self.kinds, len(self.kinds)
        state = np.arange(self.cells) % len(STATES)
        donor = self._donors()
        masters = self._toggle(state, rng)
        alike = np.where(rng.random((self.cells, self.medium)) < 0.9, 1, -1) * rng.choice((-1, 1), self.medium)
        signal = np.zeros((self.cells, genes))
        signal[:, kind == MASTER] = masters
        signal[:, kind == TARGET] = np.tanh(masters @ self._weights(rng).T)
        signal[:, kind == MEDIUM] = alike * np.array([-1, 1, 0])[state][:, None]
        if not self.drives:
            signal = rng.permuted(signal, axis=0)
        gain = np.where(kind == MASTER, self.master_gain, rng.uniform(*self.gain, genes))
        base = np.where(kind == MASTER, self.master_base, rng.normal(0, self.base_sd, genes))
        level = base + rng.normal(0, self.donor_sd, (self.donors, genes))[donor] + gain * signal
        mean = np.exp(level + rng.uniform(*self.noise, genes) * rng.normal(size=level.shape))
        mean *= (self.depth * rng.lognormal(0, self.depth_sd, self.cells) / mean.sum(1))[:, None]
        if self.ambient:
            mean = self._leaked(mean, donor)
        counts = rng.poisson(mean * rng.gamma(1 / self.dispersion, self.dispersion, mean.shape)).astype(np.float32)
        names = [f"ENSG{i:011d}" for i in range(genes)]
        obs = {"state": np.array(STATES)[state], "donor": [f"donor{d}" for d in donor], "n_counts": counts.sum(1)}
        obs["batch"] = [f"batch{d % 2}" for d in donor]
        var = {
            "ensembl_id": names,
            "gene_name": [f"{k}{i}" for i, k in enumerate(kind)],
            "kind": kind,
            "program": np.pad(self.program, (0, genes - self.masters), constant_values=-1),
        }
        cells = pd.DataFrame(obs, index=[f"cell{i}" for i in range(self.cells)])
        anndata.AnnData(sp.csr_matrix(counts), obs=cells, var=pd.DataFrame(var, index=names)).write_h5ad(path)

    def _donors(self) -> np.ndarray:
        """int [cells]: the donor of every cell."""
        turn = np.arange(self.cells) // len(STATES)
        if self.sizes is None:
            return turn % self.donors
        ends = np.cumsum(self.sizes) / np.sum(self.sizes)
        return np.searchsorted(ends, (turn + 0.5) / (turn[-1] + 1))

    def _leaked(self, mean: np.ndarray, donor: np.ndarray) -> np.ndarray:
        """Expected counts [cells, genes], `ambient` of each cell's in the proportions of all cells of its donor."""
        own = np.zeros((self.donors, mean.shape[1]))
        np.add.at(own, donor, mean)
        own /= own.sum(1, keepdims=True)
        return (1 - self.ambient) * mean + self.ambient * mean.sum(1, keepdims=True) * own[donor]

    def _weights(self, rng: np.random.Generator) -> np.ndarray:
        """w [T, M], zero where a master does not regulate the target."""
        weights = np.zeros((self.targets, self.masters))
        for row in weights:
            some = rng.choice(self.masters, rng.integers(self.regulators[0], self.regulators[1] + 1), replace=False)
            row[some] = rng.uniform(0.7, 1.3, len(some)) * rng.choice((-1, 1), len(some))
        return weights

    def _toggle(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """x [cells, M] after the sweeps."""
        program = self.program
        x = np.where(program == state[:, None], 1.0, -1.0)  # elsewhere all are off
        for _ in range(self.sweeps):
            for m in rng.permutation(self.masters):
                same = program == program[m]
                same[m] = False
                pull = x[:, same].mean(1) - x[:, program != program[m]].mean(1)
                on = rng.random(len(x)) < 1 / (1 + np.exp(-self.beta * pull))
                x[:, m] = np.where(on & (state < 2), 1, -1)
        return x
