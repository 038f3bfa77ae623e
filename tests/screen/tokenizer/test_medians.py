"""Medians of many values: the very numbers that numpy and DuckDB give for all values in memory, whatever the chunks."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from rankshift.screen.tokenizer import medians
from rankshift.screen.tokenizer.medians import GeneValues


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 22])
@pytest.mark.parametrize("genes", [1, 40])
def test_medians_are_exact(tmp_path, monkeypatch, chunk, genes):
    monkeypatch.setattr(medians, "CHUNK", chunk)
    random = np.random.default_rng(chunk + genes)
    gene = random.integers(0, genes, 601).astype(np.int32)
    gene[gene == 3] = 0  # a gene without a value
    value = random.poisson(3, 601) / random.integers(1, 1000, 601) * 1e4  # ties, odd and even numbers of values
    gathered = GeneValues(tmp_path, genes)
    for part in np.split(np.arange(601), [50, 51, 400]):
        gathered.add(gene[part], value[part])
    found = gathered.medians()
    pairs = pa.table({"gene": gene, "value": value})  # noqa: F841 (read by the query)
    known = dict(duckdb.sql("SELECT gene, median(value) FROM pairs GROUP BY gene").fetchall())
    for number in range(genes):
        if number in known:
            assert found[number] == known[number]
            assert found[number] == pytest.approx(np.median(value[gene == number]), rel=1e-15)
        else:
            assert np.isnan(found[number])


def test_without_values_there_are_no_medians(tmp_path):
    assert np.isnan(GeneValues(tmp_path, 3).medians()).all()


def test_a_single_value_is_its_median(tmp_path):
    gathered = GeneValues(tmp_path, 2)
    gathered.add(np.array([1], np.int32), np.array([0.1]))
    assert gathered.medians().tolist()[1] == 0.1
