"""Principal components against scikit-learn's, dense and sparse."""

import numpy as np
import pytest
from scipy.sparse import random as random_matrix
from sklearn.decomposition import PCA

from rankshift.screen.stats.arithmetic import principal as module
from rankshift.screen.stats.arithmetic.principal import principal


@pytest.mark.parametrize("dense", [10**6, 0])
def test_dense_vectors(dense, monkeypatch):
    monkeypatch.setattr(module, "DENSE", dense)
    vectors = np.random.default_rng(0).normal(3, 1, (70, 12)) * np.linspace(5, 1, 12)
    compare(principal(vectors), vectors)


def test_sparse_vectors():
    vectors = random_matrix(90, 30, density=0.2, random_state=1, format="csr")
    compare(principal(vectors), vectors.toarray())


def compare(found, vectors):
    places, directions, held = found
    pca = PCA(n_components=2, svd_solver="full").fit(vectors)
    assert held == pytest.approx(pca.explained_variance_ratio_)
    assert directions == pytest.approx(pca.components_, abs=1e-7)
    assert places == pytest.approx(pca.transform(vectors), abs=1e-6)
