"""Validation of a table of twelve genes, every number worked out by hand, and the areas against scikit-learn.

Of the twelve, K was trained on and L has no value; ten are compared. By falling size of the effect, hits marked by *:

    gene     A*   B*   C    D*   E    F    G*   H    I*   J
    effect   .9  -.8   .7   .6  -.5   .4   .3  -.2   .1   .05
    truth    to  away       to             away      to
    called   to  away  to        away      to
"""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from rankshift.screen.errors import InputError
from rankshift.screen.study.validation.ranking import areas, hits_in_top, mean_reciprocal_rank
from rankshift.screen.study.validation.truth import truth_of
from rankshift.screen.study.validation.validate import Share, Validation, validate

GENES = "ABCDEFGHIJKL"
EFFECT = np.array([0.9, -0.8, 0.7, 0.6, -0.5, 0.4, 0.3, -0.2, 0.1, 0.05, 2.0, np.nan])
CALLED = np.array([1, -1, 1, 0, -1, 0, 1, 0, 0, 0, 1, 0])
TIED = np.array([1.0] * 5 + [2] * 5 + [9, 9])  # a baseline that knows two kinds of genes
HITS = {"A": "towards", "B": "away", "D": "towards", "G": "away", "I": "towards", "K": "towards", "L": "away"}


def table(**more: list) -> pa.Table:
    names = [*GENES, "Z"]
    columns = {
        "symbol": names,
        "hit": ["yes" if g in HITS else "no" for g in names],
        "direction": [HITS.get(g) for g in names],
    }
    return pa.table({**columns, **more})


@pytest.fixture(scope="module")
def found() -> Validation:
    truth = truth_of(table(), [f"ENSG{i}" for i in range(12)], list(GENES))
    return validate(
        EFFECT, CALLED, truth, baselines={"detection": TIED}, trained_on=[10], tops=(3, 5, 50), bootstrap=300
    )


def row(found: Validation, direction: str, method: str) -> dict:
    (only,) = [r for r in found.table.to_pylist() if (r["direction"], r["method"]) == (direction, method)]
    return only


def test_what_is_compared(found):
    assert found.counts == {
        "genes": 12,
        "truth": 13,
        "unmatched": 1,
        "trained_on": 1,
        "without_value": 1,
        "compared": 10,
    }


@pytest.mark.parametrize(
    ("direction", "hits", "auroc", "auprc"),
    [
        ("either", 5, (5 + 5 + 4 + 2 + 1) / 25, (1 / 1 + 2 / 2 + 3 / 4 + 4 / 7 + 5 / 9) / 5),
        ("towards", 3, (7 + 6 + 4) / 21, (1 / 1 + 2 / 3 + 3 / 6) / 3),  # A C D F G I J H E B
        ("away", 2, (8 + 4) / 16, (1 / 1 + 2 / 6) / 2),  # B E H J I G F D C A
    ],
)
def test_areas_of_the_screen(found, direction, hits, auroc, auprc):
    own = row(found, direction, "screen")
    assert (own["genes"], own["hits"]) == (10, hits)
    assert own["auroc"] == pytest.approx(auroc)
    assert own["auprc"] == pytest.approx(auprc)
    assert own["auroc_low"] <= own["auroc"] <= own["auroc_high"]
    assert own["auprc_low"] <= own["auprc"] <= own["auprc_high"]


def test_lists_of_the_screen(found):
    own = row(found, "either", "screen")
    assert (own["hits_in_top_3"], own["hits_in_top_5"]) == (2, 3)
    assert "hits_in_top_50" not in own
    assert own["mean_reciprocal_rank"] == pytest.approx((1 / 1 + 1 / 2 + 1 / 4 + 1 / 7 + 1 / 9) / 5)


def test_a_baseline_with_ties_and_chance(found):
    """F to J share the first five places, A to E the last: G and I among the first, A, B and D among the last."""
    other = row(found, "either", "detection")
    assert other["auroc"] == pytest.approx((2 * (1.5 + 2) + 3 * 1) / 25)
    assert other["auprc"] == pytest.approx((2 * 2 / 5 + 3 * 5 / 10) / 5)
    assert other["hits_in_top_3"] == pytest.approx(3 * 2 / 5)
    first, last = (sum(1 / place for place in places) / 5 for places in (range(1, 6), range(6, 11)))
    assert other["mean_reciprocal_rank"] == pytest.approx((2 * first + 3 * last) / 5)
    assert other["best_baseline"]
    assert other["auroc_ahead"] == pytest.approx(17 / 25 - 10 / 25)
    assert other["auroc_ahead_low"] < other["auroc_ahead"] < other["auroc_ahead_high"]
    chance = row(found, "either", "chance")
    assert (chance["auroc"], chance["auprc"], chance["hits_in_top_3"]) == pytest.approx((0.5, 0.5, 1.5))
    assert chance["mean_reciprocal_rank"] == pytest.approx(sum(1 / place for place in range(1, 11)) / 10)
    assert not chance["best_baseline"]


@pytest.mark.parametrize(
    ("direction", "sensitivity", "specificity", "positive", "negative"),
    [
        ("either", (2, 5), (3, 5), (2, 5), (3, 5)),  # G was called, in the wrong direction
        ("towards", (1, 3), (5, 7), (1, 3), (5, 7)),
        ("away", (1, 2), (7, 8), (1, 2), (7, 8)),
    ],
)
def test_calls(found, direction, sensitivity, specificity, positive, negative):
    at = found.at_verdict[direction]
    shares = (at.sensitivity, at.specificity, at.positive_predictive_value, at.negative_predictive_value)
    assert [(s.count, s.of) for s in shares] == [sensitivity, specificity, positive, negative]
    assert [s.value for s in shares] == pytest.approx(
        [a / b for a, b in (sensitivity, specificity, positive, negative)]
    )


def test_the_interval_of_a_share_is_that_of_the_book():
    """Clopper and Pearson: of 0 and of 10 in 10 the ends solve (1 - p)^10 = 0.025; of 5 in 10, 0.187 and 0.813."""
    end = 1 - 0.025 ** (1 / 10)
    assert (Share.among(0, 10).low, Share.among(0, 10).high) == pytest.approx((0, end))
    assert (Share.among(10, 10).low, Share.among(10, 10).high) == pytest.approx((1 - end, 1))
    assert (Share.among(5, 10).low, Share.among(5, 10).high) == pytest.approx((0.187, 0.813), abs=5e-4)
    assert Share.among(0, 0).value is None


def test_areas_are_those_of_scikit_learn_for_any_weights():
    rng = np.random.default_rng(0)
    score, hit = rng.integers(0, 12, 60) * 1.0, rng.random(60) < 0.3
    weights = rng.integers(0, 3, (5, 60)) * 1.0
    roc, precision = areas(score, hit, weights)
    for i, w in enumerate(weights):
        assert roc[i] == pytest.approx(roc_auc_score(hit, score, sample_weight=w))
        assert precision[i] == pytest.approx(average_precision_score(hit, score, sample_weight=w))


def test_ties_are_broken_by_chance():
    """Expected over many orders of the tied genes."""
    rng = np.random.default_rng(1)
    score, hit = np.array([3.0, 2, 2, 2, 1, 1]), np.array([False, True, False, True, False, True])
    orders = [np.lexsort((rng.random(6), -score)) for _ in range(20_000)]
    top = np.mean([hit[order][:3].sum() for order in orders])
    reciprocal = np.mean([(1 / (np.flatnonzero(hit[order]) + 1)).mean() for order in orders])
    assert hits_in_top(score, hit, 3) == pytest.approx(top, abs=0.02)
    assert mean_reciprocal_rank(score, hit) == pytest.approx(reciprocal, abs=0.005)


def test_scores_are_hits_at_their_largest_and_are_correlated():
    values = [0.1, -0.9, 0.2, 0.3, -0.1, 0.8, 0.05, 0.0, 0.15, -0.2, 0.02, 0.01, 5.0]
    truth = truth_of(pa.table({"gene": [*GENES, "Z"], "score": values}), list(GENES), [None] * 12, share=3 / 13)
    assert np.flatnonzero(truth.hit).tolist() == [1, 5]  # and Z, which the study does not have
    assert truth.direction[[1, 5]].tolist() == [-1, 1]
    found = validate(EFFECT, CALLED, truth, bootstrap=0)
    apart = [3, 0, 0, 2, 1, 4, 0, 1, 3, 2, 6]  # of the ranks of effect and score, A to K
    assert found.rank_correlation == pytest.approx(1 - 6 * sum(d * d for d in apart) / (11 * (11**2 - 1)))
    assert found.table["auroc_low"].null_count == found.table.num_rows


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"symbol": ["X", "Y"], "hit": [1, 0]}, "none of its 2 genes .* is a gene of the study"),
        ({"name": ["A"], "hit": [1]}, "it needs gene_id or symbol, and hit or score"),
        ({"symbol": ["A", "B"]}, "it needs gene_id or symbol, and hit or score"),
        ({"symbol": ["A", "B"], "hit": ["yes", "perhaps"]}, "column 'hit' holds 'perhaps': give yes or no"),
        ({"symbol": ["A", "B"], "hit": [1, 0], "direction": ["sideways", None]}, "column 'direction' holds 'sideways'"),
        ({"symbol": ["A", "B"], "score": ["high", "low"]}, "column 'score' holds values that are no numbers"),
        ({"symbol": ["A", "A", "B"], "hit": [1, 0, 0]}, "says two things of gene 'A'"),
        ({"symbol": ["A", "B"], "hit": [1, 1]}, "2 of the 2 genes that the study has are hits"),
    ],
)
def test_tables_that_say_nothing_are_refused_in_one_line(columns, said):
    with pytest.raises(InputError, match=said) as refused:
        truth_of(pa.table(columns), list(GENES), list(GENES))
    assert "\n" not in str(refused.value)


def test_nothing_left_to_compare_is_refused():
    truth = truth_of(table(), list(GENES), list(GENES))
    with pytest.raises(InputError, match="0 of the 5 genes that can be compared are hits"):
        validate(EFFECT, CALLED, truth, trained_on=[0, 1, 3, 6, 8, 10])


def test_without_resamples_the_words_have_no_intervals(found):
    truth = truth_of(table(), [f"ENSG{i}" for i in range(12)], list(GENES))
    bare = validate(EFFECT, CALLED, truth, baselines={"detection": TIED}, trained_on=[10], bootstrap=0)
    (line,) = [line for line in bare.lines() if line.startswith("either") and " screen " in line]
    assert "AUROC 0.680, AUPRC 0.775" in line
    (line,) = [line for line in found.lines() if line.startswith("either") and " screen " in line]
    assert "AUROC 0.680 (" in line
