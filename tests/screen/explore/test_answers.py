"""What the page is told, against the same numbers by numpy and scipy, and what is refused in a line."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats as scipy_stats

from hand_run import IDS, SYMBOLS, hand_run, values
from rankshift.screen.errors import InputError
from rankshift.screen.explore import about, answer, cells_on_map, comparison, gene, grid, neighbours
from rankshift.screen.explore.comparison import Side
from rankshift.screen.explore.opened.session import Session, opened
from rankshift.screen.runs.compaction import compact
from rankshift.screen.runs.manifest import AdaptiveAsked
from rankshift.screen.stats import record, statistics

FIRST, SECOND = values(0), values(1)
AFFECTED = {
    "perturbation": np.array([0, 0, 0, 1], np.int32),
    "affected": np.array([3, 4, 3, 5], np.int32),
    "n": np.array([2, 1, 2, 1], np.int32),
    "sum": np.array([1.8, 0.5, 1.6, 0.9]),
    "square": np.array([1.62, 0.25, 1.28, 0.81]),
    "min": np.array([0.9, 0.5, 0.8, 0.9], np.float32),
}


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Iterator[Session]:
    """Two runs of the same genes, the first with gene shifts, and a table of drugs."""
    folder = tmp_path_factory.mktemp("explore")
    runs = {
        "one": hand_run(folder / "one", FIRST, affected=AFFECTED),
        "two": hand_run(folder / "two", SECOND, ids=[*IDS[:3], "ENSG00000000099"]),
    }
    drugs = pd.DataFrame(
        {"name": ["x", "y", "z", "w"], "target": ["alpha", "Alpha", IDS[1], "none"], "phase": [1, 4, 2, 3]}
    )
    drugs.to_csv(folder / "drugs.csv", index=False)
    pd.DataFrame({"a": ["nobody"]}).to_csv(folder / "other.csv", index=False)
    with opened(runs, {"drugs": folder / "drugs.csv", "other": folder / "other.csv"}) as found:
        yield found


def ask(session: Session, number: int, *, run: str = "one", quantity: str | None = None, by: str | None = None) -> dict:
    found = gene.gene(session, session.run(run), number, quantity, by)
    assert found is not None
    return found


def test_a_gene_has_the_mean_and_the_spread_of_its_cells_and_its_place(session):
    mean = np.nanmean(FIRST.astype(np.float64), 0)
    for number in range(4):
        found = ask(session, number)
        there = FIRST[:, number][~np.isnan(FIRST[:, number])].astype(np.float64)
        assert found["row"]["shift_up"] == pytest.approx(there.mean(), rel=1e-6)
        assert found["row"]["shift_up_sd"] == pytest.approx(there.std(ddof=1), rel=1e-6)
        assert found["row"]["cells"] == len(there) == found["total"]
        assert (found["place"], found["of"]) == (int((mean > mean[number]).sum()) + 1, 4)
        assert found["sample"]["value"] == pytest.approx(there.tolist()) or sorted(
            found["sample"]["value"]
        ) == pytest.approx(sorted(there))


def test_similarity_is_shown_as_its_distance_from_one(session):
    found = ask(session, 2, quantity="similarity")
    assert found["row"]["similarity"] == pytest.approx(np.abs(FIRST[:, 2].astype(np.float64)).mean(), rel=1e-4)
    assert session.run("one").quantity("similarity").title == "1 − similarity"


def test_groups_have_the_mean_and_quartiles_of_their_cells(session):
    found = ask(session, 0, by="donor")["groups"]
    assert found["label"] == ["a", "b"]
    for i, rows in enumerate((slice(0, 5), slice(5, 12))):
        part = FIRST[rows, 0].astype(np.float64)
        low, median, high = np.quantile(part, [0.25, 0.5, 0.75])
        assert found["cells"][i] == len(part)
        for key, value in {
            "mean": part.mean(),
            "sd": part.std(ddof=1),
            "low": low,
            "median": median,
            "high": high,
        }.items():
            assert found[key][i] == pytest.approx(value, rel=1e-5)


def test_both_arms_are_rows_of_all_runs_that_have_the_gene(session):
    found = ask(session, 0)["arms"]
    means = {(row["run"], row["quantity"]): row["mean"] for row in found}
    assert means["one", "shift towards up"] == pytest.approx(FIRST[:, 0].mean(), rel=1e-5)
    assert means["two", "shift towards up"] == pytest.approx(SECOND[:, 0].mean(), rel=1e-5)
    assert {row["run"] for row in ask(session, 3)["arms"]} == {"one"}, "the other run has no gene of that id"


def test_genes_it_moves_are_those_of_the_lowest_cosine(session):
    found = gene.effects(session, session.run("one"), 0)["rows"]
    assert found["symbol"] == ["GAMMA", "BETA"]
    assert found["n"] == [1, 4]
    assert found["turn"] == pytest.approx([1 - 0.5, 1 - 3.4 / 4])
    assert found["sd"][1] == pytest.approx(np.sqrt((1.62 + 1.28) / 4 - 0.85**2))
    assert gene.effects(session, session.run("two"), 0) == {
        "lacking": "has no view effects: screen with --gene-shifts",
        "rows": None,
    }


def test_search_takes_symbols_and_ids_in_any_case_what_is_whole_first(session):
    one = session.run("one")
    assert gene.find(session, one, "alpha")["symbols"] == ["ALPHA", "alphaX"]
    assert gene.find(session, one, "ALPHAX")["symbols"] == ["alphaX"]
    assert gene.find(session, one, IDS[2])["symbols"] == ["GAMMA"]
    assert gene.find(session, one, "eta")["symbols"] == ["BETA"]
    assert gene.find(session, one, "%")["symbols"] == []
    assert gene.number_of(session, one, "gamma") == 2
    with pytest.raises(InputError, match="run one has no perturbation 'nobody'"):
        gene.number_of(session, one, "nobody")


def test_neighbours_are_correlations_over_shared_cells_less_the_mean_of_each_cell(session):
    found = neighbours.neighbours(session, session.run("one"), 0, None)["rows"]
    residual = FIRST.astype(np.float64) - np.nanmean(FIRST.astype(np.float64), 1, keepdims=True)
    want = {i: np.corrcoef(residual[:, 0], residual[:, i])[0, 1] for i in (1, 2)}  # the fourth shares six cells only
    order = sorted(want, key=lambda i: -want[i])
    assert found["perturbation"] == order
    assert found["correlation"] == pytest.approx([want[i] for i in order], abs=1e-6)
    assert found["shared"] == [12, 12]


def test_chosen_cells_rank_again(session):
    chosen = [0, 2, 7, 8]
    table = cells_on_map.ranked(session, session.run("one"), chosen, None)
    inside = np.nanmean(FIRST[chosen].astype(np.float64), 0)
    outside = np.nanmean(np.delete(FIRST.astype(np.float64), chosen, 0), 0)
    order = sorted(
        range(3), key=lambda i: -abs(inside[i])
    )  # the fourth gene is in two of these cells, three are needed
    assert table["perturbation"].to_pylist() == order
    assert table["mean_in"].to_pylist() == pytest.approx(inside[order].tolist(), rel=1e-5)
    assert table["mean_out"].to_pylist() == pytest.approx(outside[order].tolist(), rel=1e-5)
    assert table["cells_in"].to_pylist() == [4, 4, 4]
    other = cells_on_map.ranked(session, session.run("one"), chosen, None, order="difference")
    assert other["perturbation"].to_pylist() == sorted(range(3), key=lambda i: -abs(inside[i] - outside[i]))
    every = cells_on_map.ranked(session, session.run("one"), range(12), None)
    assert every["mean_out"].to_pylist() == [None] * 4


def test_cells_of_a_group_rank_as_the_same_cells_by_number(session):
    one = session.run("one")
    by_group = cells_on_map.ranked_again(session, one, {"group": "donor", "value": "a"})
    by_cell = cells_on_map.ranked_again(session, one, {"cells": [0, 1, 2, 3, 4]})
    assert by_group == by_cell
    for asked, why in (
        ({"cells": []}, "no cell is chosen"),
        ({"cells": ["1"]}, "cells are no list of numbers"),
        ({"cells": 1}, "cells are no list of numbers"),
        ({"group": "sex", "value": "f"}, "no groups by 'sex': use one of donor"),
        ({"cells": [1], "order": "name"}, "order 'name' is unknown: use one of mean, difference"),
        ({"cells": [1], "quantity": "p"}, "run one has no quantity 'p': use one of shift_up, similarity"),
    ):
        with pytest.raises(InputError, match=why):
            cells_on_map.ranked_again(session, one, asked)


def test_the_map_colours_the_cells_that_have_the_gene(session):
    one = session.run("one")
    found = cells_on_map.coloured(session, one, 3, None)
    assert found["symbols"] == "alphaX"
    assert found["value"][6:] == [None] * 6
    assert found["value"][:6] == pytest.approx(FIRST[:6, 3].tolist(), rel=1e-4)
    mean = cells_on_map.coloured(session, one, None, None)["value"]
    assert mean == pytest.approx(np.nanmean(FIRST, 1).tolist(), rel=1e-3)
    drawn = cells_on_map.drawn(session, one)
    assert drawn["cell"] == list(range(12))
    assert drawn["cell_id"] == [f"c{i}" for i in range(12)]
    assert drawn["groups"] == {"donor": {"names": ["a", "b"], "of": [0] * 5 + [1] * 7}}


def test_two_runs_are_compared_by_gene_with_the_line_of_least_squares(session):
    sides = Side(run=session.run("one")), Side(run=session.run("two"))
    found = comparison.comparison(session, *sides, fewest=6)
    x, y = (np.nanmean(v.astype(np.float64), 0)[:3] for v in (FIRST, SECOND))  # the fourth has another id there
    line = scipy_stats.linregress(x, y)
    assert found["summary"] == pytest.approx(
        {
            "n": 3,
            "slope": line.slope,
            "base": line.intercept,
            "pearson": line.rvalue,
            "spearman": scipy_stats.spearmanr(x, y)[0],
        },
        rel=1e-5,
    )
    residual = y - (line.slope * x + line.intercept)
    order = np.argsort(-np.abs(residual))
    assert found["points"]["symbols"] == [SYMBOLS[i] for i in order]
    assert found["points"]["residual"] == pytest.approx(residual[order].tolist(), rel=1e-4)
    with pytest.raises(InputError, match="one and two share no gene with 13 cells in both"):
        comparison.comparison(session, *sides, fewest=13)


def test_ties_share_the_middle_rank(tmp_path):
    """Spearman's correlation of means of which two are equal, as scipy has it."""
    first = np.tile(np.array([1, 1, 2, 5], np.float32), (12, 1)) / 1000
    second = np.tile(np.array([3, 1, 1, 2], np.float32), (12, 1)) / 1000
    with opened({"a": hand_run(tmp_path / "a", first), "b": hand_run(tmp_path / "b", second)}, {}) as both:
        found = comparison.comparison(both, Side(run=both.run("a")), Side(run=both.run("b")))
    assert found["summary"]["spearman"] == pytest.approx(scipy_stats.spearmanr(first[0], second[0])[0])


def rows(
    session: Session, filters: dict[str, str] | None = None, sort: str | None = None, falling: bool = False
) -> list[str]:
    table = grid.rows_of(session, session.run("one"), filters=filters or {}, sort=sort, falling=falling)
    return table["symbols"].to_pylist()


def test_the_table_sorts_filters_and_turns_pages(session):
    mean = np.nanmean(FIRST, 0)
    assert rows(session) == [SYMBOLS[i] for i in np.argsort(-np.abs(mean))]
    assert rows(session, sort="shift_up") == [SYMBOLS[i] for i in np.argsort(mean)]
    assert rows(session, sort="symbols", falling=True)[-1] == "ALPHA"
    assert set(rows(session, {"symbols": "alph"})) == {"ALPHA", "alphaX"}
    assert set(rows(session, {"cells": ">6"})) == {"ALPHA", "BETA", "GAMMA"}
    assert rows(session, {"cells": "6"}) == ["alphaX"]
    assert set(rows(session, {"cells": "0..11", "symbols": "a"})) == {"alphaX"}
    assert set(rows(session, {"shift_up": "|>|2.5e-3"})) == {
        s for s, m in zip(SYMBOLS, mean, strict=True) if abs(m) > 2.5e-3
    }
    assert set(rows(session, {"shift_up": "<-.001"})) == {"GAMMA"}
    page = grid.page(session, session.run("one"), filters={}, sort="symbols", falling=False, number=2, size=3)
    assert (page["n"], page["total"], page["rows"]["symbols"]) == (4, 4, ["alphaX"])


def test_means_of_many_cells_come_before_larger_ones_of_few(tmp_path):
    shifts = np.full((12, 4), np.nan, np.float32)
    for number, (cells, mean) in enumerate([(12, 0.1), (1, 0.9), (10, -0.2), (9, 0.5)]):
        shifts[:cells, number] = mean
    with opened({"one": hand_run(tmp_path / "run", shifts)}, {}) as kept:
        table = grid.rows_of(kept, kept.run("one"), filters={}, sort=None, falling=False)
    assert table["cells"].to_pylist() == [10, 12, 1, 9]


@pytest.mark.parametrize(
    ("filters", "why"),
    [
        ({"cells": "many"}, "Cells holds numbers, 'many' compares with none: use 5, >5"),
        ({"shift_up": "1; DROP TABLE x"}, "compares with none"),
        ({"nothing": "1"}, "run one has no column 'nothing'"),
    ],
)
def test_what_is_no_filter_is_refused(session, filters, why):
    with pytest.raises(InputError, match=why):
        rows(session, filters)


def test_filters_of_an_address_are_texts_by_column():
    assert grid.filters_of('{"cells": ">6", "symbols": " "}') == {"cells": ">6"}
    assert grid.filters_of(None) == {}
    for text in ("[1]", '{"a": 1}', "{", "[" * 100_000):
        with pytest.raises(InputError, match="filters are no"):
            grid.filters_of(text)


def test_a_name_with_quotes_is_a_name(session):
    assert rows(session, {"symbols": "'; DROP TABLE cells; --"}) == []
    assert rows(session, {"symbols": "%"}) == []


def test_the_users_table_comes_by_gene_whatever_its_case(session):
    own = session.tables["drugs"]
    assert (own.key, own.matched) == ("target", 2)
    assert session.tables["other"].key is None
    table = grid.rows_of(
        session, session.run("one"), filters={"drugs.phase": ">3"}, sort=None, falling=False
    ).to_pylist()
    assert [(row["symbols"], row["drugs.name"], row["drugs.phase"]) for row in table] == [("ALPHA", "x; y", 4)]
    assert ask(session, 0)["own"] == {"drugs": {"name": ["x", "y"], "target": ["alpha", "Alpha"], "phase": [1, 4]}}
    told = about.about(session, "0")["tables"]
    assert [table["said"] for table in told] == [
        "table drugs: 2 genes of these runs by its column target",
        "table other: no column names a gene of these runs, so it is for SQL alone",
    ]


def test_statistics_that_a_run_keeps_are_columns_of_its_table(tmp_path):
    run = hand_run(tmp_path / "run", FIRST)
    with opened({"run": run}, {}) as bare:
        assert any("Nothing was tested" in note for note in bare.run("run").notes)
    record(run, statistics(run, "goal"))
    want = run.sql("SELECT gene_ids, fdr, hit FROM statistics ORDER BY gene_ids").to_pylist()
    with opened({"run": run}, {}) as kept:
        shown = kept.run("run")
        assert shown.notes == ()
        table = grid.rows_of(kept, shown, filters={}, sort="gene_ids", falling=False).to_pylist()
        assert [row["statistics.fdr"] for row in table] == [row["fdr"] for row in want]
        hits = grid.rows_of(kept, shown, filters={"statistics.hit": "true"}, sort=None, falling=False)
        assert hits.num_rows == sum(bool(row["hit"]) for row in want)
        with pytest.raises(InputError, match="is yes or no"):
            grid.rows_of(kept, shown, filters={"statistics.hit": "maybe"}, sort=None, falling=False)


def test_sql_reads_all_runs_and_tables_and_changes_nothing(session):
    found = answer.answer(session, "SELECT count(*) AS n FROM shifts s JOIN two.shifts t USING (cell, gene_ids)")
    assert found["rows"] == {"n": [36]}
    assert not found["more"]
    long = answer.answer(session, "SELECT * FROM range(5000) AS t(i)")
    assert long["more"]
    assert len(long["rows"]["i"]) == answer.SHOWN
    assert answer.answer(session, "SELECT 1 AS a, 'x' AS a, CAST('nan' AS DOUBLE) AS b, [1, 2] AS c")["rows"] == {
        "a": [1], "a (2)": ["x"], "b": [None], "c": [[1, 2]],
    }  # fmt: skip
    for query, why in (
        ("CREATE TABLE x AS SELECT 1", "CREATE would change something"),
        ("COPY cells TO '/tmp/x.csv'", "would change something"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("SELECT * FROM '/etc/passwd'", "SQL"),
        ("SELECT read_text('/etc/passwd')", "SQL"),
        ("SELECT nothing FROM shifts", "nothing"),
        ("", "0 statements"),
    ):
        with pytest.raises(InputError, match=why):
            answer.answer(session, query)


def test_what_is_no_number_counts_for_nothing(tmp_path):
    shifts = FIRST.copy()
    shifts[3, 1] = np.inf  # a row whose shift is NaN
    with opened({"run": hand_run(tmp_path / "run", shifts)}, {}) as session:
        want = np.delete(FIRST[:, 1].astype(np.float64), 3)
        found = ask(session, 1, run="run")
        assert found["row"]["shift_up"] == pytest.approx(want.mean(), rel=1e-6)
        assert found["total"] == 11
        table = cells_on_map.ranked(session, session.run("run"), [0, 1, 2, 3], None).to_pylist()
        (row,) = (row for row in table if row["perturbation"] == 1)
        assert (row["cells_in"], row["cells_out"]) == (3, 8)
        assert row["mean_out"] == pytest.approx(FIRST[4:, 1].astype(np.float64).mean(), rel=1e-5)


def test_without_a_goal_a_run_is_judged_by_its_similarity(tmp_path):
    with opened({"run": hand_run(tmp_path / "run", FIRST, goal=False)}, {}) as session:
        assert [one.name for one in session.run("run").quantities] == ["similarity"]
        assert rows_first(session) == SYMBOLS[int(np.argmax(np.nanmean(np.abs(FIRST), 0)))]


def rows_first(session: Session) -> str:
    return grid.rows_of(session, session.run(None), filters={}, sort=None, falling=False)["symbols"][0].as_py()


def test_pairs_show_their_interaction_and_are_found_by_either_gene(tmp_path):
    ids = [f"{IDS[0]}+{IDS[1]}", f"{IDS[0]}+{IDS[2]}", f"{IDS[1]}+{IDS[2]}", IDS[3]]
    symbols = ["ALPHA+BETA", "ALPHA+GAMMA", "BETA+GAMMA", "alphaX"]
    more = {"shift_up_interaction": SECOND, "shift_up_first": SECOND, "shift_up_second": SECOND}
    drugs = tmp_path / "drugs.csv"
    pd.DataFrame({"gene": ["beta", "gamma"], "drug": ["b", "g"]}).to_csv(drugs, index=False)
    with opened(
        {"run": hand_run(tmp_path / "run", FIRST, ids=ids, symbols=symbols, more=more)}, {"drugs": drugs}
    ) as session:
        shown = session.run("run")
        assert [one.name for one in shown.quantities] == ["shift_up", "similarity", "shift_up_interaction"]
        assert sorted(gene.find(session, shown, "beta")["symbols"]) == ["ALPHA+BETA", "BETA+GAMMA"]
        found = ask(session, 2, run="run")["row"]
        assert found["shift_up_interaction"] == pytest.approx(SECOND[:, 2].mean(), rel=1e-5)
        assert found["drugs.drug"] == "b; g"


def test_a_compacted_run_tells_the_same(tmp_path):
    run = hand_run(tmp_path / "run", FIRST)
    told = []
    for _ in range(2):
        with opened({"run": run}, {}) as session:
            shown = session.run("run")
            table = grid.rows_of(session, shown, filters={}, sort="symbols", falling=False)
            told.append((table, ask(session, 1, run="run"), cells_on_map.ranked(session, shown, [1, 2, 3, 5], None)))
        compact(run)
    assert (run.path / "compacted" / "index.json").exists()
    assert told[0][0].equals(told[1][0])
    assert told[0][1:] == told[1][1:]


def test_an_unfinished_run_says_how_far_it_is(tmp_path):
    with opened({"run": hand_run(tmp_path / "run", FIRST, shards=3)}, {}) as session:
        assert session.run("run").notes[0] == "1 of 3 shards are there: means are of what was computed so far."


def test_a_run_without_rows_and_an_adaptive_one_under_way_are_refused(tmp_path):
    empty = hand_run(tmp_path / "empty", FIRST, committed=False)
    asked = AdaptiveAsked(top=5, column="shift_up", highest=True, confidence=0.9, seed=0, min_cells=1)
    adaptive = hand_run(tmp_path / "adaptive", FIRST, adaptive=asked)
    for run, why in (
        (empty, "has no committed rows yet"),
        (adaptive, "has no view answers: it is of adaptive screens that have ended"),
    ):
        with pytest.raises(InputError, match=why), opened({"run": run}, {}):
            pass


def principal(lists: list[list[int]], columns: int) -> np.ndarray:
    """The first two principal components of rank weights, by a dense decomposition."""
    weights = np.zeros((len(lists), columns))
    for row, tokens in enumerate(lists):
        for place, token in enumerate(tokens):
            weights[row, token] = 1 - place / len(tokens)
    u, s, _ = np.linalg.svd(weights - weights.mean(0), full_matrices=False)
    return u[:, :2] * s[:2]


def test_without_coordinates_the_map_is_of_the_ranks(session):
    found = session.maps["one"].place
    lists = [(np.flatnonzero(~np.isnan(row)) + 2).tolist() for row in FIRST]
    want = principal(lists, 6)
    assert np.abs(found[:, 0]) == pytest.approx(np.abs(want[:, 0]), abs=1e-5)
    assert (session.maps["one"].total, len(found)) == (12, 12)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "h5ad"])
def test_coordinates_of_the_user_are_matched_by_cell(tmp_path, ending):
    run = hand_run(tmp_path / "run", FIRST)
    names = [f"c{i}" for i in reversed(range(10))]
    places = np.arange(20, dtype=np.float32).reshape(10, 2)
    file = tmp_path / f"map.{ending}"
    frame = pd.DataFrame({"cell_id": names, "u": places[:, 0], "v": places[:, 1]})
    if ending == "h5ad":
        from anndata import AnnData

        AnnData(obs=pd.DataFrame(index=names), obsm={"X_pca": places[:, ::-1].copy(), "X_umap": places}).write_h5ad(
            file
        )
    elif ending == "parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False, sep="\t" if ending == "tsv" else ",")
    with opened({"run": run}, {}, {"run": file}) as session:
        found = session.maps["run"]
    assert found.cell.tolist() == list(range(10))
    assert found.place.tolist() == places[::-1].tolist()
    assert found.source == f"coordinates of map.{ending}, which lacks 2 of the run's cells"
    assert found.axes == (("umap 1", "umap 2") if ending == "h5ad" else ("u", "v"))


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("map.txt", "cell_id,x,y\nc0,1,2\n", "is of no known kind"),
        ("map.csv", "cell_id,x\nc0,1\n", "has not two columns of numbers"),
        ("map.csv", "cell_id,x,y\nother,1,2\n", "has no cell of run run"),
        ("map.csv", "", "cannot be read"),
        ("map.h5ad", "no", "cannot be read"),
        ("map.parquet", "no", "cannot be read"),
    ],
)
def test_coordinates_that_fit_nothing_are_refused(tmp_path, name, text, why):
    (tmp_path / name).write_text(text)
    with (
        pytest.raises(InputError, match=why),
        opened({"run": hand_run(tmp_path / "run", FIRST)}, {}, {"run": tmp_path / name}),
    ):
        pass


def test_everything_the_page_is_told_fits_json(session):
    import json

    one = session.run("one")
    for found in (
        about.about(session, "1"), ask(session, 0, by="donor"), cells_on_map.drawn(session, one),
        gene.effects(session, one, 0), neighbours.neighbours(session, one, 3, None),
    ):  # fmt: skip
        assert json.loads(json.dumps(found, allow_nan=False))


def test_what_is_not_there_is_refused(session):
    assert gene.gene(session, session.run("one"), 99, None, None) is None
    with pytest.raises(InputError, match="no run is called 'three': use one of one, two"):
        session.run("three")
    with pytest.raises(InputError, match="cells of one have no groups by 'sex'"):
        ask(session, 0, by="sex")


def test_every_cell_of_a_gene_can_be_saved(session):
    table = gene.rows_of(session, session.run("one"), 3)
    assert isinstance(table, pa.Table)
    assert table["cell_id"].to_pylist() == [f"c{i}" for i in range(6)]
    assert table["shift_up"].to_pylist() == pytest.approx(FIRST[:6, 3].tolist())
    assert table.column_names == ["cell_id", "gene_ids", "symbols", "shift_up", "similarity", "donor"]
