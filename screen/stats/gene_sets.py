"""Which gene sets of the user stand out in a screen of single genes: among its hits, and by the rank of their effects.

Both tests are competitive: genes of a set against the other tested genes. They take genes as independent, which genes of a
pathway are not, so that p-values are too small (Goeman & Buehlmann, Bioinformatics 23:980, 2007): a list to read, no proof.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix
from scipy.stats import hypergeom, rankdata

from rankshift.screen.errors import InputError
from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.stats.arithmetic.rank_sum import two_sided

FEWEST = 5  # tested genes of a set: below, neither test can say much


def compare_gene_sets(
    sets: Mapping[str, Sequence[str]],
    gene_ids: Sequence[str],
    symbols: Sequence[str],
    effect: np.ndarray,
    hit: np.ndarray,
) -> pa.Table:
    """A row per set with FEWEST tested genes or more, by the p-value of its ranks.

    sets: names or Ensembl ids of genes, in any case. gene_ids, symbols, effect float64 [G], hit bool [G]: the tested genes.
    Columns: gene_set, genes (of the set), tested (of them), hits (of those), hits_expected (by chance), hits_p, hits_fdr
    (hypergeometric, one-sided), effect_median, superiority (chance that a gene of the set has a larger effect than one that is
    not, ties half), rank_p, rank_fdr (Wilcoxon, two-sided, normal approximation, corrected for ties). Raises InputError where
    no set has enough tested genes.
    """
    total = len(effect)
    number = {name.upper(): i for names in (symbols, gene_ids) for i, name in enumerate(names)}  # an id before a symbol
    members = [sorted({number[gene.upper()] for gene in genes if gene.upper() in number}) for genes in sets.values()]
    enough = [i for i, found in enumerate(members) if FEWEST <= len(found) < total]
    if not enough:
        most = max((len(found) for found in members), default=0)
        raise InputError(
            f"of no gene set {FEWEST} genes or more were tested (at most {most} of {total:,}): screen more genes, or give "
            "sets of the same species"
        )
    chosen = [members[i] for i in enough]
    n = np.array([len(found) for found in chosen], np.float64)
    inside = csr_matrix(
        (np.ones(int(n.sum())), np.concatenate(chosen), np.concatenate([[0], np.cumsum(n)]).astype(int)),
        (len(n), total),
    )
    hits = inside @ hit.astype(np.float64)
    hits_p = hypergeom.sf(hits - 1, total, int(hit.sum()), n)
    rank = rankdata(effect)
    ties = float(sum(t**3 - t for t in np.unique(effect, return_counts=True)[1].astype(np.float64)))
    pairs = n * (total - n)
    superiority = (inside @ rank - n * (n + 1) / 2) / pairs
    error = np.sqrt(pairs / 12 * (total + 1 - ties / (total * (total - 1)))) / pairs
    rank_p = two_sided(np.divide(superiority - 0.5, error, out=np.zeros(len(n)), where=error > 0))
    names = list(sets)
    table = pa.table(
        {
            "gene_set": [names[i] for i in enough],
            "genes": [len(set(sets[names[i]])) for i in enough],
            "tested": n.astype(np.int64),
            "hits": hits.astype(np.int64),
            "hits_expected": n * hit.sum() / total,
            "hits_p": hits_p,
            "hits_fdr": fdr(hits_p),
            "effect_median": [float(np.median(effect[found])) for found in chosen],
            "superiority": superiority,
            "rank_p": rank_p,
            "rank_fdr": fdr(rank_p),
        }
    )
    return table.take(pa.array(np.lexsort((hits_p, rank_p))))
