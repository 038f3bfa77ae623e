"""The mean corrected for the winner's curse: shrunk towards the typical gene by as much as the means of all genes allow."""

import numpy as np

from rankshift.screen.adaptive.mixture import posterior
from rankshift.screen.stats.arithmetic.grouped import chunks
from rankshift.screen.stats.evidence import OneRun
from rankshift.screen.stats.measure import Column, Heading, Measure
from rankshift.screen.stats.options import Columns

FEWEST = 20  # tested perturbations; of fewer the spread of effects is not known well enough
NORMAL = 1.96  # half width of a 95 % interval, in standard deviations


def of_run(one: OneRun) -> Columns:
    """Posterior mean and interval of every tested perturbation; none with --by, where values are not one a cell.

    The error of a mean is that of n values with the variance that values have around the mean of their perturbation, pooled
    over all tested ones. Effects are a scale mixture of normals (module `mixture`).
    """
    tested, gene = one.tested, one.seen.gene
    if one.options.by is not None or tested.sum() < FEWEST:
        return {}
    count = one.seen.count
    around, used = np.empty(int(count[tested].sum())), 0
    for some in chunks(len(gene)):
        mine = gene[some][tested[gene[some]]]
        around[used : used + len(mine)] = one.values[some][tested[gene[some]]] - one.effect[mine]
        used += len(mine)
    pooled = float(around @ around) / max(used - int(tested.sum()), 1)
    found, _ = posterior(one.effect[tested], np.maximum(pooled, np.finfo(np.float32).tiny) / count[tested])
    name = f"{one.quantity}_shrunken"
    out = {n: np.full(len(count), np.nan) for n in (name, f"{name}_low", f"{name}_high")}
    for column, times in zip(out.values(), (0.0, -NORMAL, NORMAL), strict=True):
        column[tested] = found.centre + times * found.sd
    return out


MEASURE = Measure(
    name="shrunken",
    sentence=(
        "The strongest of many means are strong by luck, too: the shrunken mean takes the luck out, and its interval holds for "
        "genes that were chosen for their rank, where cells may be taken as independent."
    ),
    columns=(
        Column(
            name="<m>_shrunken",
            unit="cosine",
            meaning="mean, shrunk towards the typical perturbation by what the means of all allow; empty with --by",
            heading=Heading(title="Shrunken", help="the mean without the luck of the strongest", falling=True),
        ),
        Column(
            name="<m>_shrunken_low",
            unit="cosine",
            meaning="lower end of its 95 % interval, which holds after selection",
        ),
        Column(name="<m>_shrunken_high", unit="cosine", meaning="upper end of it"),
    ),
    of_run=of_run,
)
