"""Verdicts on drawn studies whose truth is known, and their numbers against scipy and by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr, wilcoxon

from rankshift.screen.errors import InputError
from rankshift.screen.study.design import Design
from rankshift.screen.study.exact import rank_between
from rankshift.screen.study.judge import Judging, adjusted, judge
from rankshift.screen.study.verdicts import Verdicts, verdicts
from rankshift.screen.study.vocabulary import DEFINITIONS, Verdict

GENES, DONORS = 300, 20
SYMBOLS = [f"G{i}" for i in range(GENES)]


def drawn(genes=GENES, donors=DONORS, spread=0.5, correlation=-0.6, seed=1) -> dict[str, np.ndarray]:
    """Shifts of genes that do what any gene does: their arms are anticorrelated, and every donor adds its own."""
    rng = np.random.default_rng(seed)
    common = spread * rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], genes)
    level = rng.normal(0, 3, (2, donors))  # of a donor, for all genes
    return {
        arm: common[:, i, None] + level[i] + rng.normal(size=(genes, donors))
        for i, arm in enumerate(("delete", "overexpress"))
    }


def planted(scale: float = 1.0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    shift = drawn()
    delete, overexpress = shift["delete"], shift["overexpress"]
    cells = np.full((GENES, DONORS), 40)
    for gene, (a, b) in {0: (4, -4), 1: (-4, 4), 2: (5, 5), 4: (4, -4), 5: (4, -4), 7: (4, -4)}.items():
        delete[gene] += a
        overexpress[gene] += b
    cells[5, 4:] = 4
    cells[6] = 0
    symbols = [*SYMBOLS]
    symbols[4] = "RPL13A"
    return {arm: v * scale for arm, v in shift.items()}, dict.fromkeys(shift, cells), symbols


def judged(scale: float = 1.0, **options) -> Verdicts:
    shift, cells, symbols = planted(scale)
    ids = [f"ENSG{i}" for i in range(GENES)]
    leaks = [None] * GENES
    leaks[7] = "red cells"
    return verdicts(ids, symbols, shift, cells, np.arange(DONORS) % 5, leaks_from=leaks, **options)


def rows(found: Verdicts) -> pd.DataFrame:
    return found.table.to_pandas().set_index("gene_id")


def test_every_planted_gene_gets_its_verdict():
    table = rows(judged(not_run=[("ENSGX", "ABSENT")]))
    said = table.verdict[[f"ENSG{i}" for i in range(7)]].tolist()
    assert said[:3] == [Verdict.TOWARDS, Verdict.AWAY, Verdict.INCOHERENT]
    assert said[4:7] == [Verdict.TECHNICAL, Verdict.NOT_ESTIMABLE, Verdict.NOT_RUN]
    assert table.verdict["ENSG7"] == Verdict.TECHNICAL
    assert "red cells" in table.why["ENSG7"]
    assert table.verdict["ENSGX"] == Verdict.NOT_RUN
    assert "donors with 5 cells with the gene or more in both arms: 4, which give no p below 0.12" in table.why["ENSG5"]
    assert table.moves_to_goal["ENSG0"] == "delete"
    assert table.moves_to_goal["ENSG1"] == "overexpress"
    assert pd.isna(table.moves_to_goal["ENSG2"])
    others = table.drop(index=[f"ENSG{i}" for i in (0, 1, 2, 4, 5, 6, 7)] + ["ENSGX"])
    assert set(others.verdict) == {Verdict.NOT_FOUND}
    assert others.detectable.between(0, 10).all()
    assert table.index[:2].tolist() == ["ENSG0", "ENSG1"]  # found effects first


def test_an_effect_that_hangs_on_one_donor_or_one_fold_is_unstable():
    """Half of the donors have a large effect, all in one fold where they can be left out together."""
    rng = np.random.default_rng(5)
    shift = {"delete": rng.normal(0, 0.1, (GENES, 10))}
    shift["delete"][0] = [9, 9.2, 9.1, 9.3, 8, 0.9, 1, 1.1, 1.2, 1.05]
    cells = {"delete": np.full((GENES, 10), 40)}
    options = {"control": np.arange(GENES) > 0}  # a list of one gene: Holm is the plain p
    for fold, verdict in ((np.array([0] * 5 + [1] * 5), Verdict.UNSTABLE), (np.arange(10) % 5, Verdict.TOWARDS)):
        table = verdicts([str(i) for i in range(GENES)], SYMBOLS, shift, cells, fold, **options).table.to_pandas()
        assert table.verdict[0] == verdict
        if verdict == Verdict.UNSTABLE:
            assert "fold" in table.why[0]
            assert table.without_one_fold[0] < 0.5 < table.without_one_donor[0]


def test_the_numbers_of_a_gene_against_scipy():
    shift, cells, _ = planted()
    found = judge(shift, cells, detection=np.arange(GENES) * 1.0)
    for gene in (0, 50, 100):
        near = found.controls.near[gene]
        values = {
            arm: v[gene] - np.median(v[near][np.isfinite(v[near]).all(1) & (cells[arm][near] >= 5).all(1)], 0)
            for arm, v in shift.items()
        }
        for arm, value in values.items():
            assert found.arms[arm].donor_p[gene] == pytest.approx(wilcoxon(value, method="exact").pvalue)
        joint = (
            values["delete"] / found.arms["delete"].cloud.spread[gene]
            - values["overexpress"] / found.arms["overexpress"].cloud.spread[gene]
        ) / 2
        assert found.joint.donor_p[gene] == pytest.approx(wilcoxon(joint, method="exact").pvalue)
        i, j = np.triu_indices(DONORS)
        assert found.joint.effect[gene] == pytest.approx(np.median((joint[i] + joint[j]) / 2))
        assert found.joint.p[gene] == max(found.joint.donor_p[gene], found.joint.cloud.p[gene])
    arms = [arm.effect[found.family] for arm in found.arms.values()]
    assert found.arms_correlation == pytest.approx(spearmanr(*arms).statistic)
    assert -0.7 < found.arms_correlation < -0.2


def test_holm_and_benjamini_hochberg_by_hand():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005, 0.9])
    family = np.array([True, True, True, True, True, False])
    assert adjusted(p, family, "holm") == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02, np.nan], nan_ok=True)
    assert adjusted(p, family, "fdr") == pytest.approx([0.02, 0.04, np.nan, 0.04, 0.02, np.nan], nan_ok=True)


def test_of_a_list_only_its_genes_are_judged_by_holm_and_held_against_the_controls():
    shift, cells, symbols = planted()
    control = np.arange(GENES) >= 9
    found = verdicts(SYMBOLS, symbols, shift, cells, np.arange(DONORS) % 5, control=control)
    table = found.table.to_pandas().set_index("gene_id")
    assert sorted(table.index) == SYMBOLS[:9]
    assert found.controls.num_rows == GENES - 9
    tested = table[table.adjusted_p_value.notna()].sort_values("p_value")
    assert tested.adjusted_p_value.iloc[0] == pytest.approx(len(tested) * tested.p_value.iloc[0])
    assert found.summary["family"] == "holm"
    assert table.verdict["G0"] == Verdict.TOWARDS


def test_too_few_donors_for_so_many_genes_is_not_estimable_and_says_what_is_needed():
    shift = {arm: v[:, :8] for arm, v in planted()[0].items()}
    cells = {arm: np.full((GENES, 8), 40) for arm in shift}
    table = verdicts(SYMBOLS, SYMBOLS, shift, cells, np.arange(8) % 4).table.to_pandas()
    assert set(table.verdict) == {Verdict.NOT_ESTIMABLE}
    assert table.why.str.contains("the smallest p of 8 donors is 0.0078, among 300 genes 0.00017 is needed").all()
    assert table.detectable.isna().all()


@pytest.mark.parametrize(
    ("genes", "donors", "cells", "said"),
    [
        (0, 8, 40, None),
        (30, 1, 40, "1, which give no p below 1"),
        (10, 8, 40, "there are not 20 other genes to match it with"),
        (30, 8, 4, "0, which give no p below 1"),
        (30, 8, 0, "no screened cell has the gene"),
        (30, 0, 0, "no screened cell has the gene"),
    ],
)
def test_what_is_too_little_is_said_of_every_gene_and_nothing_warns(genes, donors, cells, said, recwarn):
    shift = {arm: v[:genes, :donors] for arm, v in drawn().items()}
    counts = {arm: np.full((genes, donors), cells) for arm in shift}
    found = verdicts(SYMBOLS[:genes], SYMBOLS[:genes], shift, counts, np.zeros(donors, int), not_run=[("X", "ABSENT")])
    table = found.table.to_pandas()
    assert len(table) == genes + 1
    assert table.why[:-1].str.contains(said or "", regex=False).all()
    assert set(table.verdict[:-1]) <= {Verdict.NOT_RUN if cells == 0 else Verdict.NOT_ESTIMABLE}
    assert table.verdict.iloc[-1] == Verdict.NOT_RUN
    assert len(recwarn) == 0


def test_one_arm_is_judged_by_itself():
    shift, cells, symbols = planted()
    table = verdicts(SYMBOLS, symbols, {"delete": shift["delete"]}, {"delete": cells["delete"]}, np.arange(DONORS) % 5)
    said = table.table.to_pandas().set_index("gene_id")
    assert said.verdict[["G0", "G1", "G2"]].tolist() == [Verdict.TOWARDS, Verdict.AWAY, Verdict.TOWARDS]
    assert said.coherent.isna().all()
    assert table.summary["arms_correlation"] is None


def test_units_do_not_matter_and_the_same_values_give_the_same_table():
    first, again, small = judged(), judged(), judged(scale=1e-4)
    assert first.table.equals(again.table, check_metadata=True)
    assert first.table["verdict"].equals(small.table["verdict"])
    for name in ("effect", "p_value", "detectable"):
        assert np.allclose(first.table[name].to_numpy(), small.table[name].to_numpy(), rtol=1e-6, equal_nan=True)
    for field in first.table.schema:
        assert set(field.metadata) == {b"unit", b"meaning"}
        assert field.metadata[b"meaning"]


def test_donors_of_two_groups_are_compared_by_ranks():
    shift, cells, symbols = planted()
    other = np.arange(DONORS) >= 10
    for arm, sign in (("delete", 1), ("overexpress", -1)):
        shift[arm][20, :10] += 5 * sign  # the first group alone moves
    found = verdicts(SYMBOLS, symbols, shift, cells, np.arange(DONORS) % 5, other=other)
    table = found.table.to_pandas().set_index("gene_id")
    assert table.verdict["G20"] == Verdict.TOWARDS
    assert table.verdict["G0"] == Verdict.NOT_FOUND  # both groups move
    judged_ = judge(shift, cells, detection=np.zeros(GENES), design=Design(other=other))
    assert judged_.joint.donor_p == pytest.approx(rank_between(judged_.joint.values, other), nan_ok=True)


@pytest.mark.slow
def test_four_of_five_studies_find_an_effect_of_the_size_that_is_called_detectable():
    calls, control, cells = [], np.arange(GENES) > 0, np.full((GENES, DONORS), 40)

    def row(shift: dict[str, np.ndarray]) -> dict:
        counts, fold = dict.fromkeys(shift, cells), np.arange(DONORS) % 5
        return verdicts(SYMBOLS, SYMBOLS, shift, counts, fold, control=control).table.to_pylist()[0]

    for seed in range(30):
        shift, noise = drawn(spread=0.3, seed=seed), np.random.default_rng([seed, 1]).normal(size=(2, DONORS))
        for arm, own in zip(shift, noise, strict=True):
            shift[arm][0] = np.median(shift[arm][1:], axis=0) + own  # a gene without any effect of its own
        before = row(shift)
        for arm, sign in (("delete", 1), ("overexpress", -1)):
            shift[arm][0] += sign * before["detectable"] * before[f"{arm}_matched_sd"]
        calls.append(row(shift)["adjusted_p_value"] <= 0.05)
    assert np.mean(calls) > 0.8 - 2 * np.sqrt(0.16 / len(calls))


def test_words_are_defined_and_none_says_no_effect():
    assert set(DEFINITIONS) == set(Verdict)
    assert not any("no effect" in word.value for word in Verdict)
    with pytest.raises(InputError, match="family 'bonferroni' is unknown"):
        Judging(family="bonferroni")
