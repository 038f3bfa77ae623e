"""What a linear model makes of the same rank lists on the same split: the least that fine-tuning must beat."""

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression, Ridge

from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.expression import rank_score

STRENGTH = 1.0  # weight of the penalty: scikit-learn's default, as features lie between 0 and 1
STEPS = 2000  # limit of the solver, far more steps than it takes


def rank_features(cells: Cells, rows: np.ndarray, is_gene: np.ndarray) -> csr_matrix:
    """float32 (rows, tokens): 1 for the gene at the top of a cell's list, falling evenly to 1/genes at its end, 0 if absent."""
    ids, offsets, values = [], [0], []
    for row in rows:
        genes = cells.ids_of(int(row))
        genes = genes[is_gene[genes]]
        ids.append(genes)
        offsets.append(offsets[-1] + len(genes))
        values.append(rank_score(np.arange(len(genes), dtype=np.float32), len(genes)))
    return csr_matrix((np.concatenate(values), np.concatenate(ids), np.array(offsets)), (len(rows), len(is_gene)))


def classify(
    features: csr_matrix, ids: np.ndarray, train: np.ndarray, judged: np.ndarray, classes: int, balanced: bool
) -> np.ndarray:
    """float64 (judged, classes): probabilities of a logistic regression on the training units' features."""
    model = LogisticRegression(C=STRENGTH, max_iter=STEPS, class_weight="balanced" if balanced else None)
    model.fit(features[train], ids[train])
    given = np.zeros((len(judged), classes))
    given[:, model.classes_] = model.predict_proba(features[judged])
    return given


def regress(features: csr_matrix, numbers: np.ndarray, train: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """float64 (judged, 1): a ridge regression's numbers."""
    model = Ridge(alpha=STRENGTH).fit(features[train], numbers[train])
    return np.asarray(model.predict(features[judged])).reshape(-1, 1)
