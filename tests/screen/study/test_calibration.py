"""Calibration on drawn cohorts, a small size of `python -m benchmarks.cohorts`: no more false claims than the level allows."""

import pytest
from scipy.stats import binom

from benchmarks.cohorts import Case, rates

STUDIES, GENES = 25, 500


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 1.0], ids=["donor effects", "every gene has an effect"])
def test_null_studies_claim_no_more_than_the_level_where_pooled_cells_always_do(spread):
    found = rates(Case(name="null", donors=20, spread=spread), STUDIES, GENES)
    assert found.false * STUDIES <= binom.ppf(0.999, STUDIES, 0.05)
    assert found.pooled > 0.9
    assert found.coherent_interval[0] <= 0.05  # the level at which arms are called coherent
    assert found.correlation < -0.35
    assert found.opposite > 0.6  # the naive rule


@pytest.mark.slow
def test_planted_genes_are_found_and_few_others():
    found = rates(Case(name="planted", donors=20, spread=1.0, planted=10), 15, GENES)
    assert found.found is not None
    assert found.found > 0.3
    assert found.false_interval[0] <= 0.05


@pytest.mark.slow
def test_lists_make_no_false_claim_in_more_studies_than_the_level():
    found = rates(Case(name="list", donors=8, spread=1.0, listed=5), 100, GENES)
    assert found.false * 100 <= binom.ppf(0.999, 100, 0.05)
