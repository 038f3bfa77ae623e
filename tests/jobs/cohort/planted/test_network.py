"""Cells of a planted cohort: donors of unequal size, and counts that are not the cell's own."""

from collections import Counter

import anndata
import numpy as np
import pytest

from rankshift.jobs.cohort.planted.demo import COHORT, STUDY
from rankshift.jobs.cohort.planted.network import Network


def test_donors_have_their_share_of_every_state(tmp_path):
    """3 to 1 of 400 cells of each state: 300 and 100, each state alike."""
    Network(cells=1200, donors=2, sizes=(3, 1), targets=4, medium=1, others=3).write(tmp_path / "cells.h5ad")
    obs = anndata.read_h5ad(tmp_path / "cells.h5ad").obs
    count = Counter(zip(obs["donor"], obs["state"], strict=True))
    assert {donor: {n for (d, _), n in count.items() if d == donor} for donor in ("donor0", "donor1")} == {
        "donor0": {300},
        "donor1": {100},
    }
    assert len(count) == 6


def test_where_all_counts_are_ambient_cells_of_a_donor_are_alike(tmp_path):
    """The expected share of every gene is then the donor's mean; with none it follows the state."""
    shares = {}
    for ambient in (0.0, 1.0):
        made = Network(
            cells=900, donors=1, ambient=ambient, targets=4, medium=1, others=3, depth=20_000, dispersion=1e-6
        )
        made.write(tmp_path / f"{ambient}.h5ad")
        data = anndata.read_h5ad(tmp_path / f"{ambient}.h5ad")
        level = data.X.toarray() / data.X.sum(1)
        state = data.obs["state"].to_numpy()
        shares[ambient] = np.array([level[state == name].mean(0) for name in ("start", "goal")])
    apart = {ambient: np.abs(np.log(both[0] / both[1])).max() for ambient, both in shares.items()}
    assert apart[1.0] < 0.05
    assert apart[0.0] > 1.0


def test_leaked_counts_are_a_mean_over_the_donor_by_hand():
    """Two cells of one donor with totals 10 and 30; half of each stays its own."""
    made = Network(cells=2, donors=1, ambient=0.5, masters=2, targets=0, medium=0, others=0)
    mean = np.array([[8.0, 2.0], [6.0, 24.0]])
    profile = np.array([14.0, 26.0]) / 40
    expected = 0.5 * mean + 0.5 * np.array([[10.0], [30.0]]) * profile
    assert made._leaked(mean, np.zeros(2, int)) == pytest.approx(expected)


def test_the_demo_asks_of_no_more_genes_than_its_donors_can_tell_apart():
    """Holm asks 0.05 / genes of the first; the smallest p of D donors is 2 / 2^D."""
    assert 2 / 2**COHORT.donors <= 0.05 / len(STUDY.genes)
    names = [f"{kind}{i}" for i, kind in enumerate(COHORT.kinds)]
    assert set(STUDY.genes) <= set(names)
