"""Gene sets of the user: both tests against scipy's, names in any case, sets that are too small."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, fisher_exact, mannwhitneyu

from rankshift.screen.errors import InputError
from rankshift.screen.stats.gene_sets import compare_gene_sets

G = 200
IDS = [f"ENSG{i:011d}" for i in range(G)]
SYMBOLS = [f"GENE{i}" for i in range(G)]


@pytest.fixture
def effects():
    draw = np.random.default_rng(3)
    effect = draw.normal(size=G).round(1)  # with ties
    effect[:12] += 1.5
    return effect, effect > 1.4


def test_both_tests_are_those_of_scipy(effects):
    effect, hit = effects
    sets = {
        "by symbol": ["gene0", "Gene1", *SYMBOLS[2:12]],
        "by id": IDS[100:130],
        "mixed, with strangers": [IDS[5], "gene5", SYMBOLS[60], *SYMBOLS[70:75], "nobody"],
    }
    rows = {row["gene_set"]: row for row in compare_gene_sets(sets, IDS, SYMBOLS, effect, hit).to_pylist()}
    members = {
        "by symbol": list(range(12)),
        "by id": list(range(100, 130)),
        "mixed, with strangers": [5, 60, *range(70, 75)],
    }
    assert next(iter(rows)) == "by symbol"
    for name, inside in members.items():
        row, outside = rows[name], np.setdiff1d(np.arange(G), inside)
        a, b = int(hit[inside].sum()), int(hit[outside].sum())
        counts = [[a, len(inside) - a], [b, len(outside) - b]]
        assert row["hits_p"] == pytest.approx(fisher_exact(counts, "greater").pvalue)
        u, p = mannwhitneyu(effect[inside], effect[outside], use_continuity=False, method="asymptotic")
        assert row["superiority"] == pytest.approx(u / (len(inside) * len(outside)))
        assert row["rank_p"] == pytest.approx(p)
        assert (row["tested"], row["hits"]) == (len(inside), a)
        assert row["hits_expected"] == pytest.approx(len(inside) * hit.mean())
        assert row["effect_median"] == pytest.approx(np.median(effect[inside]))
    for test in ("hits", "rank"):
        p = [rows[name][f"{test}_p"] for name in sets]
        assert [rows[name][f"{test}_fdr"] for name in sets] == pytest.approx(false_discovery_control(p))


def test_sets_of_too_few_tested_genes_are_left_out(effects):
    effect, hit = effects
    sets = {"small": SYMBOLS[:4], "large": SYMBOLS[:5], "all": SYMBOLS}
    assert compare_gene_sets(sets, IDS, SYMBOLS, effect, hit)["gene_set"].to_pylist() == ["large"]
    with pytest.raises(InputError, match=r"of no gene set 5 genes or more were tested \(at most 4 of 200\)"):
        compare_gene_sets({"small": SYMBOLS[:4]}, IDS, SYMBOLS, effect, hit)


def test_equal_effects_say_nothing():
    table = compare_gene_sets({"any": SYMBOLS[:9]}, IDS, SYMBOLS, np.zeros(G), np.zeros(G, bool))
    assert table["rank_p"].to_pylist() == [1.0]
    assert table["hits_p"].to_pylist() == [1.0]
