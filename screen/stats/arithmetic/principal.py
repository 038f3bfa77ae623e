"""The first two principal components of vectors, dense or sparse."""

import numpy as np
from scipy.sparse import spmatrix
from scipy.sparse.linalg import LinearOperator, svds

DENSE = 4_000_000  # numbers up to which the whole decomposition is made: exact, and quick enough


def principal(vectors: "np.ndarray | spmatrix") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places [n, 2] and directions [2, D], float64, and the share of the variance that each component holds [2].

    n and D are 2 at least. The largest entry of a direction is positive, so that a map is the same every time.
    """
    rows, width = vectors.shape
    if isinstance(vectors, np.ndarray) and vectors.size <= DENSE:
        centred = np.asarray(vectors, np.float64) - vectors.mean(axis=0, dtype=np.float64)
        left, size, right = np.linalg.svd(centred, full_matrices=False)
        total = (size**2).sum()
        left, size, right = left[:, :2], size[:2], right[:2]
    else:
        middle = np.asarray(vectors.mean(axis=0), np.float64).ravel()
        squares = vectors.multiply(vectors) if not isinstance(vectors, np.ndarray) else vectors.astype(np.float64) ** 2
        total = squares.sum(dtype=np.float64) - rows * (middle @ middle)
        centred = LinearOperator(
            (rows, width), dtype=np.float64,
            matvec=lambda v: vectors @ v.ravel() - middle @ v.ravel(),
            rmatvec=lambda v: vectors.T @ v.ravel() - middle * v.sum(),
        )  # fmt: skip
        left, size, right = svds(centred, k=2, v0=np.random.default_rng(0).normal(size=min(rows, width)))
        order = np.argsort(-size)
        left, size, right = left[:, order], size[order], right[order]
    sign = np.sign(right[np.arange(2), np.abs(right).argmax(1)])
    return left * size * sign, right * sign[:, None], size**2 / total
