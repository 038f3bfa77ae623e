"""A statistic is a file and a line of the list: one that is registered here is found wherever statistics are shown."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import trim_mean

from drawn_runs import Draw
from rankshift.screen.report import write_report
from rankshift.screen.runs.run import Run
from rankshift.screen.stats import StatOptions, effects, measures, record, statistics
from rankshift.screen.stats.evidence import OneRun
from rankshift.screen.stats.measure import Column, Heading, Measure
from rankshift.screen.stats.options import Columns

SENTENCE = "trimmed_mean leaves out the tenth of the cells at either end: trust it where a few cells run away."


def trimmed_means(one: OneRun) -> Columns:
    parts = np.split(one.values, one.seen.offsets[1:-1])
    return {"trimmed_mean": np.array([trim_mean(part.astype(float), 0.1) for part in parts])}


TRIMMED = Measure(
    name="trimmed",
    sentence=SENTENCE,
    columns=(
        Column(
            name="trimmed_mean",
            unit="cosine",
            meaning="mean of the middle four fifths",
            heading=Heading(title="Trimmed", help="without the cells at either end", falling=True),
        ),
    ),
    of_run=trimmed_means,
)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.setattr(measures, "MEASURES", (*measures.MEASURES, TRIMMED))
    draw = Draw(cells=200, genes=100, per_cell=40, shifted=10, effect=5e-3, abundance_sd=0.4)
    return draw.run(tmp_path / "run")[0]


@pytest.mark.slow
def test_a_registered_statistic_is_in_tables_hits_and_the_report(run, tmp_path):
    found = record(run, statistics(run, "goal", judging=StatOptions(bootstrap=0)))
    found.write(tmp_path / "table.parquet")
    table = pq.read_table(tmp_path / "table.parquet")
    assert table.column_names[-1] == "trimmed_mean"
    assert table.schema.field("trimmed_mean").metadata == {
        b"unit": b"cosine",
        b"meaning": b"mean of the middle four fifths",
    }
    values = run.sql("SELECT gene_ids, list(shift_goal) AS v FROM shifts GROUP BY 1").to_pylist()
    wanted = {row["gene_ids"]: trim_mean(np.array(row["v"], float), 0.1) for row in values}
    got = dict(zip(table["gene_ids"].to_pylist(), table["trimmed_mean"].to_pylist(), strict=True))
    assert got == pytest.approx(wanted)
    hits = run.sql("SELECT gene_ids, trimmed_mean FROM hits").to_pylist()
    assert len(hits) >= 5
    assert all(row["trimmed_mean"] == got[row["gene_ids"]] for row in hits)
    write_report(run, tmp_path / "report.html", judging=StatOptions(bootstrap=5))
    html = (tmp_path / "report.html").read_text()
    assert SENTENCE in html
    data = json.loads(html.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert {"title": "Trimmed", "falling": True}.items() <= next(
        c for c in data["columns"] if c["key"] == "trimmed_mean"
    ).items()
    shown = dict(zip(data["table"]["gene_ids"], data["table"]["trimmed_mean"], strict=True))
    assert shown == pytest.approx(wanted, rel=1e-5)


def test_columns_are_what_a_statistic_declares():
    names = pa.array(["a"])
    with pytest.raises(ValueError, match="declared by no statistic"):
        effects.described(pa.table({"symbols": names, "unheard_of": names}))
    with pytest.raises(ValueError, match="not of the types"):
        effects.described(pa.table({"symbols": names, "p_value": names}))
