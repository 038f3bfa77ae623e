"""False discovery rates over p-values of which some are missing, and the rate that counts as significant."""

import numpy as np
from scipy.stats import false_discovery_control

SIGNIFICANT = 0.05  # the false discovery rate below which a perturbation can be a hit, ours and the published Sig


def fdr(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg over the p-values that are there; NaN stays NaN.

    >>> fdr(np.array([0.01, np.nan, 0.04])).tolist()
    [0.02, nan, 0.04]
    """
    out = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        out[known] = false_discovery_control(p[known], method="bh")
    return out
