"""Rank value encoding of count rows: the compiled loop and the plain version are one function."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rankshift.screen
from rankshift.screen.genes.framing import FrameTokens
from rankshift.screen.tokenizer.rank_value import GeneColumns, rank_rows, rank_rows_plain

TYPES = st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint16])
COUNTS = st.one_of(st.integers(0, 3), st.integers(0, 60_000), st.floats(0, 1e6, width=32))
MEDIANS = st.one_of(st.sampled_from([1.0, 2.0]), st.floats(0.05, 1000))


@st.composite
def matrices(draw):
    """Count rows with columns of no gene, genes in several columns, explicit zeros and many ties."""
    columns = draw(st.integers(1, 40))
    owner = np.array(draw(st.lists(st.integers(-1, columns), min_size=columns, max_size=columns)))
    found, first, count = np.unique(owner[owner >= 0], return_index=True, return_counts=True)
    order = np.lexsort((first, count > 1))
    number = {int(found[o]): i for i, o in enumerate(order)}
    genes = GeneColumns(
        gene=np.array([number.get(int(o), -1) for o in owner], np.int32),
        token=np.arange(100, 100 + len(found), dtype=np.int32)[::-1].copy(),
        inverse_median=1 / np.array(draw(st.lists(MEDIANS, min_size=len(found), max_size=len(found)))),
        shared=int((count == 1).sum()),
    )
    rows = draw(st.lists(st.lists(st.tuples(st.integers(0, columns - 1), COUNTS), max_size=40), min_size=1, max_size=5))
    rows = [sorted(dict(row).items()) for row in rows]
    offsets = np.cumsum([0, *map(len, rows)])
    data = np.array([value for row in rows for _, value in row]).astype(draw(TYPES))
    column = np.array([c for row in rows for c, _ in row], np.int32)
    total = np.array(draw(st.lists(st.floats(1, 1e6, width=32), min_size=len(rows), max_size=len(rows))))
    return data, column, offsets[:-1], offsets[1:], total.astype(draw(st.sampled_from([np.float32, np.float64]))), genes


@pytest.mark.slow
@settings(deadline=None)
@given(matrices(), st.integers(3, 50), st.booleans())
def test_the_loop_and_the_plain_version_agree(matrix, limit, framed):
    frame = FrameTokens(head=(2,), tail=(3,)) if framed else FrameTokens()
    ids, length = rank_rows(*matrix, limit, frame)
    plain_ids, plain_length = rank_rows_plain(*matrix, limit, frame)
    assert length.tolist() == plain_length.tolist()
    assert ids.tolist() == plain_ids.tolist()


def one_row(values, medians=None, **change):
    """Ids of one row whose columns are genes 0, 1, 2, … with tokens equal to their numbers."""
    values = np.asarray(values)
    n = len(values)
    genes = GeneColumns(
        gene=np.arange(n, dtype=np.int32),
        token=np.arange(n, dtype=np.int32),
        inverse_median=1 / np.asarray(medians if medians is not None else np.ones(n), float),
        shared=n,
    )
    edges = np.array([0]), np.array([n])
    total = change.pop("total", np.array([100.0], np.float32))
    return rank_rows(values, np.arange(n), *edges, total, genes, change.pop("limit", n + 2), **change)[0].tolist()


@pytest.mark.slow
def test_genes_come_by_falling_count_over_median():
    assert one_row(np.float32([1, 8, 3]), medians=[0.1, 4, 1]) == [0, 2, 1]


def test_ties_go_by_ascending_column_and_zeros_do_not_count():
    assert one_row(np.float32([5, 0, 7, 5, 7, 5])) == [2, 4, 0, 3, 5]


def test_the_longest_list_includes_the_frame():
    assert one_row(np.float32([1, 2, 3, 4]), limit=3) == [3, 2, 1]
    assert one_row(np.float32([1, 2, 3, 4]), limit=3, frame=FrameTokens(head=(90,), tail=(91,))) == [90, 3, 91]
    assert one_row(np.float32([0, 0]), frame=FrameTokens(head=(90,), tail=(91,))) == []


def test_columns_of_one_gene_are_summed_and_stand_behind_in_ties():
    """Columns 0 and 3 are one gene: 2 + 3 beats 4; with 2 + 2 it ties with 4 and comes after it (PS 1.2)."""
    genes = GeneColumns(
        gene=np.array([2, 0, 1, 2], np.int32),
        token=np.array([11, 12, 10], np.int32),
        inverse_median=np.ones(3),
        shared=2,
    )
    for last, want in ((3, [10, 11, 12]), (2, [11, 10, 12])):
        row = np.float32([2, 4, 1, last]), np.arange(4), np.array([0]), np.array([4]), np.float32([10])
        for version in (rank_rows, rank_rows_plain):
            assert version(*row, genes, 9)[0].tolist() == want


def test_products_are_rounded_in_float32_as_the_reference_rounds_them():
    """Counts 16777217 and 16777216 are one float32; two genes whose medians differ by less than that stay in place."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 50, 400).astype(np.float32)
    medians = np.where(np.arange(400) % 2, 1.0, 1.0 + 2.0**-26)
    for total in np.float32([977.0, 1234.5, 3.25]):
        first = counts * (np.float32(1) / total) * np.float32(10000)
        want = np.argsort(-(first.astype(np.float64) * (1 / medians)), kind="stable")
        assert one_row(counts, medians, total=np.array([total])) == want.tolist()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]))
def test_near_ties_go_by_how_the_products_are_rounded(seed, kind):
    """Medians that bring every value within a few units in the last place of one number: each rounding counts."""
    rng = np.random.default_rng(seed)
    n, total = 300, kind([rng.uniform(1, 1e5)])
    counts = rng.integers(1, 2**24, n).astype(kind)
    first = (counts * (kind(1) / total) * kind(10_000)).astype(np.float64)
    inverse = 1 / first
    for _ in range(2):
        inverse = np.nextafter(inverse, inverse * rng.choice([0.5, 1, 2], n))
    genes = GeneColumns(
        gene=np.arange(n, dtype=np.int32), token=np.arange(n, dtype=np.int32), inverse_median=inverse, shared=n
    )
    row = counts, np.arange(n), np.array([0]), np.array([n]), total, genes, n
    want = np.argsort(-(first * inverse), kind="stable").tolist()
    assert rank_rows(*row)[0].tolist() == want
    assert rank_rows_plain(*row)[0].tolist() == want


def test_values_closer_than_the_first_cut_are_still_in_order():
    """Thousands of values within one part in a million, and one far away that widens the range."""
    rng = np.random.default_rng(1)
    values = np.append(1 + rng.permutation(5000) * 1e-10, 1e9)
    want = np.argsort(-(values * (1 / 7.0) * 10000), kind="stable")
    assert one_row(values, total=np.array([7.0])) == want.tolist()


def test_the_number_of_threads_changes_nothing():
    rng = np.random.default_rng(2)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 30, 500))])
    column = np.concatenate([np.sort(rng.choice(50, n, replace=False)) for n in np.diff(offsets)]).astype(np.int32)
    genes = GeneColumns(
        gene=np.arange(50, dtype=np.int32),
        token=np.arange(50, dtype=np.int32),
        inverse_median=rng.random(50) + 1,
        shared=50,
    )
    row = rng.integers(1, 9, len(column)), column, offsets[:-1], offsets[1:], rng.integers(10, 99, 500), genes, 20
    for got, want in zip(rank_rows(*row, threads=3), rank_rows_plain(*row), strict=True):
        np.testing.assert_array_equal(got, want)


def test_no_rows_give_no_lists():
    genes = GeneColumns(gene=np.zeros(1, np.int32), token=np.zeros(1, np.int32), inverse_median=np.ones(1), shared=1)
    empty = np.empty(0, np.int64)
    for version in (rank_rows, rank_rows_plain):
        ids, length = version(np.float32([]), np.int32([]), empty, empty, np.float32([]), genes, 5)
        assert (len(ids), len(length)) == (0, 0)


RANK_ONE_ROW = """
import importlib.util, sys
import numpy as np
from rankshift.screen.tokenizer.rank_value import GeneColumns, rank_rows

if len(sys.argv) > 1:  # another copy of the loop
    name = "rankshift.screen.tokenizer.rank_value_loop"
    spec = importlib.util.spec_from_file_location(name, sys.argv[1])
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
three = np.arange(3, dtype=np.int32)
genes = GeneColumns(gene=three, token=three, inverse_median=np.ones(3), shared=3)
print(rank_rows(np.float32([1, 3, 2]), three, np.array([0]), np.array([3]), np.float32([6]), genes, 9)[0].tolist())
"""


def installed_read_only(folder, cache):
    """Rank with a copy of the loop that cannot be cached beside its source, `cache` being the user's cache folder."""
    folder.mkdir()
    (folder / "__pycache__").touch()  # a file, in whose place no folder can be made, not even by root
    copy = folder / "rank_value_loop.py"
    copy.write_text((Path(rankshift.screen.__path__[0]) / "tokenizer" / "rank_value_loop.py").read_text())
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    env |= {"HOME": str(cache), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", RANK_ONE_ROW, copy], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "[1, 2, 0]", done.stderr


@pytest.mark.slow
def test_a_read_only_installation_keeps_the_loop_in_the_cache_of_the_user(tmp_path):
    cache = tmp_path / "cache"
    installed_read_only(tmp_path / "site", cache)
    assert list(cache.rglob("rank_value_loop.rank_rows_loop*.nbc"))


@pytest.mark.slow
def test_where_nothing_can_be_written_the_loop_is_compiled_for_the_process(tmp_path):
    (tmp_path / "cache").touch()
    installed_read_only(tmp_path / "site", tmp_path / "cache")
