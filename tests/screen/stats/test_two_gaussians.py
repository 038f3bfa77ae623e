"""The mixture without scikit-learn is scikit-learn's."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from rankshift.screen.stats.arithmetic.two_gaussians import two_gaussians


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("n", [2, 3, 7, 60, 2000])
def test_the_fit_is_that_of_scikit_learn(seed, n):
    draw = np.random.default_rng(seed)
    values = 1 - np.abs(draw.normal(0, 0.02, n)) - (draw.random(n) < 0.1 * (seed % 4)) * draw.uniform(0.01, 0.2, n)
    model = GaussianMixture(n_components=2, random_state=seed).fit(values[:, None])
    mean, variance, weight = two_gaussians(values, seed)
    assert mean == pytest.approx(model.means_[:, 0], rel=1e-9)
    assert variance == pytest.approx(model.covariances_[:, 0, 0], rel=1e-6)
    assert weight == pytest.approx(model.weights_, rel=1e-8)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_equal_values_make_two_equal_components():
    mean, variance, weight = two_gaussians(np.full(5, 0.9), 0)
    assert mean == pytest.approx([0.9, 0.0]) or mean == pytest.approx([0.9, 0.9])
    model = GaussianMixture(n_components=2, random_state=0).fit(np.full((5, 1), 0.9))
    assert mean == pytest.approx(model.means_[:, 0])
    assert weight == pytest.approx(model.weights_)
    assert variance == pytest.approx(model.covariances_[:, 0, 0])
