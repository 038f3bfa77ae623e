"""The gate of a study: can its classifiers tell the states apart in donors that they have not seen?

Every donor is judged by the model of its own fold. A study that fails says so as its result.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, permutation_test

LEVEL = 0.05
DRAWS = 99_999  # permutations of donors at most; fewer possible ones are all taken, which is exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """balanced_accuracy: over all folds, the mean over labels of the share of cells named rightly; chance: 1 / labels.

    recall: by label. donors: by donor, its balanced accuracy over the labels that it has. above, below: donors above and
    below chance. test: "sign" where every donor has two labels or more, else "between donors"; p_value: of it, one-sided.
    passed: p_value below 0.05, and balanced_accuracy above chance.
    """

    balanced_accuracy: float
    chance: float
    recall: dict[str, float]
    donors: dict[str, float]
    above: int
    below: int
    test: str
    p_value: float
    passed: bool

    @property
    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The gate in words."""
        yield (
            f"balanced accuracy {self.balanced_accuracy:.3f} in donors that the models have not seen; "
            f"chance is {self.chance:.3f}"
        )
        kind = "sign test" if self.test == "sign" else "permutation between donors"
        yield f"donors            {self.above} of {len(self.donors)} above chance; {kind}: p {self.p_value:.2g}"
        yield (
            "gate              passed"
            if self.passed
            else "gate              NOT PASSED: the classifiers cannot tell the states apart in new donors"
        )


def gate(true: np.ndarray, predicted: np.ndarray, donor: np.ndarray) -> Gate:
    """The gate from texts of the true and the predicted label and of the donor, each [n], of all folds together.

    Where every donor has two labels or more: exact sign test of the donors' balanced accuracies against chance. Else a
    classifier that always names one label would be right in every donor that has only this one; so for each label the
    share of cells named by it is compared between donors that have it (in their cells of it) and donors that have others (in
    those cells), by permutation of donors, and the largest p over the labels counts.
    """
    true, predicted, donor = (np.asarray(x, object).astype(str) for x in (true, predicted, donor))
    if not len(true):
        raise ValueError("a gate needs cells that were judged")
    right = true == predicted
    labels = sorted(set(true.tolist()))
    chance = 1 / len(labels)
    recall = {label: float(right[true == label].mean()) for label in labels}
    by_donor, fewest = {}, len(labels)
    for one in sorted(set(donor.tolist())):
        own = [right[(donor == one) & (true == label)] for label in labels]
        shares = [part.mean() for part in own if len(part)]
        by_donor[one], fewest = float(np.mean(shares)), min(fewest, len(shares))
    above = sum(value > chance for value in by_donor.values())
    below = sum(value < chance for value in by_donor.values())
    paired = fewest > 1
    if paired:
        p = float(binomtest(above, above + below, 0.5, alternative="greater").pvalue) if above + below else 1.0
    else:
        p = max((_between(label, true, predicted, donor) for label in labels), default=1.0)
    accuracy = float(np.mean(list(recall.values())))
    return Gate(
        balanced_accuracy=accuracy,
        chance=chance,
        recall=recall,
        donors=by_donor,
        above=above,
        below=below,
        test="sign" if paired else "between donors",
        p_value=p,
        passed=p < LEVEL and accuracy > chance,
    )


def _between(label: str, true: np.ndarray, predicted: np.ndarray, donor: np.ndarray) -> float:
    """One-sided p that donors' cells of the label are called by it more often than donors' other cells."""
    sides = []
    for part in (true == label, true != label):
        who, number = np.unique(donor[part], return_inverse=True)
        named = predicted[part] == label
        sides.append(np.bincount(number, named, len(who)) / np.bincount(number, minlength=len(who)))
    if not all(map(len, sides)):
        return 1.0
    return float(
        permutation_test(
            sides,
            lambda a, b, axis: a.mean(axis) - b.mean(axis),
            vectorized=True,
            alternative="greater",
            n_resamples=DRAWS,
            rng=np.random.default_rng(0),
        ).pvalue
    )
