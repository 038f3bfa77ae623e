"""Labels of cells: one text for one value in every type a file may hold it in, and names that SQL cannot tell apart."""

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.labels import label_meant, label_text
from rankshift.screen.cells.select import rows_where, select
from rankshift.screen.engine.screener import run as screen
from rankshift.screen.errors import InputError
from support import labelled

NAN = float("nan")


def bundle(bundles):
    return Bundle.open(bundles["v1"])


def test_truth_values_are_true_and_false_however_they_are_asked_for(tmp_path, bundles):
    cells = Cells.read(labelled(tmp_path, ill=pa.array([True, False, None, True, False, False])), bundle(bundles))
    for wanted in ("true", "True", True):
        assert sorted(select(cells, state_key="ill", start=wanted).tolist()) == [0, 3]


def test_texts_of_numbers():
    assert [label_text(x) for x in (7, 7.0, np.float32(0.1), 1e300, 2.0**60, True, None, "x")] == [
        "7", "7", "0.1", "1e+300", "1.152921504606847e+18", "true", None, "x",
    ]  # fmt: skip
    assert label_meant(pa.array(["1.0", "1"]), "1.0") == "1.0"  # two texts are two labels


def test_a_missing_number_passes_no_filter(tmp_path, bundles):
    cells = Cells.read(labelled(tmp_path, age=pa.array([50.0, NAN, 70.0, NAN, 80.0, 20.0])), bundle(bundles))
    assert select(cells, where="age > 60").size == 2  # DuckDB alone takes a NaN for more than any number
    assert cells.obs["age"].null_count == 2
    in_memory = pa.table({"age": pa.array([NAN, 61.0])})
    assert rows_where(in_memory, "age > 60").tolist() == [1]
    assert rows_where(in_memory, "age IS NULL").tolist() == [0]


def test_columns_that_differ_by_case_are_found_right_or_not_at_all(tmp_path, bundles):
    cells = pa.table({"Donor": ["a", "b"], "donor": ["b", "a"], "Row": [5, 6], "": [1, 2]})
    assert rows_where(cells, "Row = 6").tolist() == [1]
    assert rows_where(cells, "\"Donor (1)\" = 'a'").tolist() == [0]
    assert rows_where(cells, "\"donor (2)\" = 'a'").tolist() == [1]
    with pytest.raises(InputError, match="donor"):
        rows_where(cells, "donor = 'a'")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Donor", "donor"], "'Donor' and 'donor', which are one name for SQL"),
        (["Cell_ID"], "'cell_id' and 'Cell_ID'"),
        (["LENGTH"], "'LENGTH'"),
        ([""], "without a name"),
        (["File_Row_Number"], "'File_Row_Number', a name that SQL keeps"),
    ],
)
def test_a_screen_of_columns_that_sql_takes_for_one_is_refused_before_it_begins(names, message, tmp_path, bundles):
    path = labelled(tmp_path, **{name: pa.array(list("aabbcc")) for name in names})
    with pytest.raises(InputError, match=message):
        screen(path, bundles["v1"], tmp_path / "run", perturb="delete")
    assert not (tmp_path / "run").exists()


def test_columns_named_like_our_own_stand_beside_them(tmp_path, bundles):
    names = ("Kind", "cell", "SYMBOLS", "Similarity", "row of the cell", "obs_kind")
    values = {name: pa.array([f"{name} {i}" for i in range(6)]) for name in names}
    run = screen(labelled(tmp_path, **values), bundles["v1"], tmp_path / "run", perturb="delete", max_cells=3)
    there = run.sql("SELECT * FROM cells ORDER BY cell_id")
    ids = there["cell_id"].to_pylist()
    for name in ("Kind", "SYMBOLS", "Similarity", "obs_cell", "row of the cell", "obs_kind"):
        assert there[name].to_pylist() == [
            f"{name.removeprefix('obs_') if name == 'obs_cell' else name} {i}" for i in ids
        ]
    rows = run.sql(
        'SELECT DISTINCT cell_id, kind, "obs_obs_Kind" AS k, "obs_SYMBOLS" AS s, "obs_Similarity" AS m, obs_cell AS c '
        "FROM shifts ORDER BY 1"
    ).to_pylist()
    assert [(r["kind"], r["k"], r["s"], r["m"], r["c"]) for r in rows] == [
        ("delete", f"Kind {i}", f"SYMBOLS {i}", f"Similarity {i}", f"cell {i}") for i in sorted(ids)
    ]


def test_states_that_differ_by_case_are_refused(tmp_path, bundles):
    path = labelled(tmp_path, state=pa.array(["CM", "CM", "cm", "cm", "x", "x"]))
    route = {"state_key": "state", "start": "CM", "goal": "cm"}
    with pytest.raises(InputError, match="'shift_CM' and 'shift_cm', which are one name for SQL: rename a state"):
        screen(path, bundles["v1"], tmp_path / "run", perturb="delete", **route)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_a_table_to_join_whose_columns_are_one_name_is_refused(ending, tmp_path, bundles):
    run = screen(labelled(tmp_path), bundles["v1"], tmp_path / "run", perturb="delete", max_cells=1)
    file = tmp_path / f"drugs.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["Gene", "gene"]), file)
    else:
        file.write_text({"csv": "Gene,gene\na,b\n", "json": '[{"Gene": "a", "gene": "b"}]'}[ending])
    with pytest.raises(InputError, match="'Gene' and 'gene'"):
        run.sql("SELECT gene FROM drugs", tables={"drugs": file})
    plain = tmp_path / "plain.csv"
    plain.write_text("gene,gene_1\na,b\n")
    assert run.sql("SELECT gene_1 FROM drugs", tables={"drugs": plain}).to_pylist() == [{"gene_1": "b"}]


def test_sql_tells_no_case_of_ascii_and_every_case_of_others():
    """What `folded` says of DuckDB, asked of DuckDB."""
    held = pa.table([pa.array([i]) for i in range(4)], names=["a", "A", "é", "É"])
    with duckdb.connect(":memory:") as connection:
        connection.register("t", held)
        assert connection.sql("SELECT * FROM t").columns == ["a", "A_1", "é", "É"]
