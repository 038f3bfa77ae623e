"""What the rank lists say about a gene without a model: does it differ between the states, and go with those that do?"""

import numpy as np
import pyarrow.parquet as pq

from rankshift.screen.cells.expression import scores
from rankshift.screen.runs.layout import EXPRESSION
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.ranks_in_cells import lists_of


def state_baselines(run: Run, seen: Observations) -> dict[str, np.ndarray] | None:
    """Correlations float64 [G] by baseline of single-gene perturbations; None where the run knows no cells of both states.

    state_correlation: of the gene's score with being a goal cell, over start and goal cells of the token table.
    coexpression: over the screened cells, of the gene's score with the score of the state difference, the sum over all
    other genes of (mean goal score - mean start score) times their score in the cell. NaN where a score never varies.
    """
    path = run.path / EXPRESSION
    if not path.exists():
        return None
    table = pq.read_table(path)
    token = seen.perturbations["tokens"].combine_chunks().flatten().to_numpy()
    size = int(max(token.max(), table["token"].to_numpy().max())) + 2  # the last place stands for every token above
    weight, correlation = np.zeros(size), np.full(size, np.nan)
    known = table["token"].to_numpy()
    weight[known] = table["goal_score"].to_numpy() - table["start_score"].to_numpy()
    correlation[known] = table["state_correlation"].to_numpy()
    gene_of = np.full(size, -1, np.int64)
    gene_of[token] = np.arange(len(token))
    sums = np.zeros((3, len(token)))  # sums of the score, its square and its product with the programme
    frame = run.manifest.perturb.frame
    cells, programme = 0, np.zeros(2)  # sums of the programme and its square
    for _, ids, length in lists_of(run):
        cell, found, score = scores(ids, length, frame)
        found = np.minimum(found, size - 1)
        value = np.bincount(cell, weights=score * weight[found], minlength=len(length))
        gene = gene_of[found]
        mine = gene >= 0
        for row, part in zip(sums, (score, score**2, score * value[cell]), strict=True):
            row += np.bincount(gene[mine], weights=part[mine], minlength=len(token))
        cells += len(length)
        programme += value.sum(), (value**2).sum()
    mean, centre = sums[0] / cells, programme[0] / cells
    own = weight[token]
    variance, together = sums[1] / cells - mean**2, sums[2] / cells - mean * centre
    rest = programme[1] / cells - centre**2 - 2 * own * together + own**2 * variance  # the programme without the gene
    varies = (variance > 1e-12) & (rest > 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):
        coexpression = (together - own * variance) / np.sqrt(variance * rest)
    return {"state_correlation": correlation[token], "coexpression": np.where(varies, coexpression, np.nan)}
