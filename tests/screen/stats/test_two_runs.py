"""A run against another, tested a few genes at a time: every gene's values against those of the same gene there."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from drawn_runs import Draw
from rankshift.screen.runs.layout import SIMILARITY
from rankshift.screen.stats.evidence import TwoRuns
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.options import StatOptions


@pytest.mark.parametrize("chunk", [1, 37, 10**6])
def test_every_gene_is_held_against_itself_in_the_other_run(chunk, monkeypatch, tmp_path):
    """Genes are rare, so that either run has some that the other has not."""
    monkeypatch.setattr("rankshift.screen.stats.arithmetic.grouped.CHUNK", chunk)
    rare = {"genes": 60, "per_cell": 6, "abundance_sd": 2.0}
    run, _ = Draw(cells=40, seed=1, **rare).run(tmp_path / "run")
    null, _ = Draw(cells=25, seed=2, noise_sd=2e-3, **rare).run(tmp_path / "null")
    seen, other = (Observations.read(one, [SIMILARITY]) for one in (run, null))
    two = TwoRuns(run=run, options=StatOptions(), seen=seen, null=null, other=other)
    here, there = (
        {
            gene: rows[SIMILARITY].to_numpy(np.float64)
            for gene, rows in one.frame("SELECT * FROM shifts").groupby("gene_ids")
        }
        for one in (run, null)
    )
    names = seen.perturbations["gene_ids"].to_pylist()
    assert set(names) == set(here)
    assert set(names) - set(there)
    assert set(there) - set(names)
    for gene, superiority, p in zip(names, two.rank_sum.superiority, two.rank_sum.p, strict=True):
        if gene not in there:
            assert np.isnan(superiority)
            continue
        found = mannwhitneyu(here[gene], there[gene], use_continuity=False, method="asymptotic")
        assert superiority == pytest.approx(found.statistic / len(here[gene]) / len(there[gene]), abs=1e-12)
        assert p == pytest.approx(found.pvalue, abs=1e-12)
