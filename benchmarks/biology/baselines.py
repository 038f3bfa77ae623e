"""What ranks genes without a model: expression between states, co-expression, place in the lists, and chance."""

from dataclasses import dataclass

import anndata
import numpy as np
from scipy.stats import ttest_ind


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expression:
    """Log expression, ln(1 + value per ten thousand), of n cells and G genes, and a label per cell.

    level: float32 [n, G]. state: str [n]. genes: names [G].
    """

    level: np.ndarray
    state: np.ndarray
    genes: np.ndarray

    @staticmethod
    def read(data: anndata.AnnData, key: str) -> "Expression":
        """Of counts with n_counts in obs; `key` is the obs column of the states."""
        share = data.X.toarray() / data.obs["n_counts"].to_numpy(np.float32)[:, None]
        return Expression(
            level=np.log1p(1e4 * share),
            state=data.obs[key].astype(str).to_numpy(),
            genes=data.var["ensembl_id"].to_numpy(str),
        )

    def difference(self, start: str, goal: str) -> dict[str, np.ndarray]:
        """Differential expression, positive for higher in the goal: Welch's t, and the log fold change."""
        a, b = self.level[self.state == start], self.level[self.state == goal]
        t = ttest_ind(b, a, equal_var=False).statistic
        return {"differential expression, t": np.nan_to_num(t), "fold change": b.mean(0) - a.mean(0)}

    def detection_difference(self, start: str, goal: str) -> np.ndarray:
        """Share of goal cells with the gene minus share of start cells."""
        seen = self.level > 0
        return seen[self.state == goal].mean(0) - seen[self.state == start].mean(0)

    def correlation(self, numbers: np.ndarray) -> np.ndarray:
        """Pearson correlation of every gene with a number per cell, [G]; 0 for a gene that never varies."""
        return np.nan_to_num(_standard(self.level).T @ _standard(numbers[:, None])[:, 0])

    def hubs(self, *, within_states: bool) -> np.ndarray:
        """Co-expression: sum over all other genes of the squared correlation, over all cells or around state means, [G]."""
        level = self.level
        if within_states:
            level = level.copy()
            for state in np.unique(self.state):
                level[self.state == state] -= level[self.state == state].mean(0)
        z = np.nan_to_num(_standard(level))
        # sum over h of (z_g . z_h)^2 = z_g (Z Z^T) z_g, which needs cells x cells, not genes x genes
        return ((z @ z.T) @ z * z).sum(0) - 1

    def mean(self) -> np.ndarray:
        """Mean log expression [G]."""
        return self.level.mean(0)

    def detection(self) -> np.ndarray:
        """Share of the cells with the gene [G]."""
        return (self.level > 0).mean(0)


def _standard(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and length 1; NaN where nothing varies."""
    centred = values - values.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return centred / np.sqrt((centred**2).sum(0))
