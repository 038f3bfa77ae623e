"""Where the typical gene stands: the centre of the genes without effect, which tests against "the other genes" need.

The others contain the genes with an effect. When these mostly go one way, every gene without one lies on the other side of
the rest, and with many cells that alone is significant. So tests are centred on the bulk of the genes (an empirical null;
Efron, 2004), which takes for granted that most genes do nothing.
"""

import numpy as np

CLIP = 2.0  # robust standard deviations around the centre that count as bulk
STEPS = 20
FEWEST = 20  # genes; the centre of fewer is their own effects


def null_centre(estimate: np.ndarray, error: np.ndarray, among: np.ndarray, default: float) -> float:
    """Centre of the bulk of `estimate` [G], each with its standard `error` [G]; `default` for fewer than FEWEST `among`.

    The median is taken again and again over the genes within CLIP of it, in units of the error, or of the robust
    spread of all where that is larger than the errors say.

    >>> rng = np.random.default_rng(0)
    >>> x = np.concatenate([rng.normal(0, 1, 900), rng.normal(8, 1, 100)])
    >>> abs(null_centre(x, np.ones(1000), np.ones(1000, bool), 0.0)) < 0.1 < np.median(x)
    True
    """
    kept = among & np.isfinite(estimate) & (error > 0)
    if kept.sum() < FEWEST:
        return default
    estimate, error = estimate[kept], error[kept]
    centre = float(np.median(estimate))
    for _ in range(STEPS):
        z = (estimate - centre) / error
        scale = max(1.0, 1.4826 * float(np.median(np.abs(z))))
        new = float(np.median(estimate[np.abs(z) < CLIP * scale]))
        if new == centre:
            break
        centre = new
    return centre
