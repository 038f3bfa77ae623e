"""Seals: a file's own checksum, in the metadata of the formats that we write."""

import zlib
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankshift.screen.errors import InputError
from rankshift.screen.files.seal import BLANK, KEY, check_seal, seal, sealed_parquet
from rankshift.screen.genes.vocabulary import Vocabulary, make_vocabulary


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.parquet"
    held = pa.table({"a": range(1000)})
    with sealed_parquet(path, held.schema) as file:
        file.write_table(held)
    return path


def check(path) -> None:
    check_seal(path, pq.read_metadata(path).metadata, "make it again")


def test_a_seal_says_size_and_crc32_of_all_other_bytes(table):
    raw, text = table.read_bytes(), pq.read_metadata(table).metadata[KEY.encode()]
    assert raw.count(text) == 1
    assert text.decode() == f"crc32:{zlib.crc32(raw.replace(text, BLANK.encode())):08x} bytes:{len(raw):016d}"
    check(table)


def test_what_follows_after_the_first_mebibyte_is_sealed_too(tmp_path):
    """The metadata of Parquet are at the end, where data of any length stand in front of them."""
    path = tmp_path / "t.parquet"
    held = pa.table({"a": range(400_000)})
    with sealed_parquet(path, held.schema, compression="none", use_dictionary=False) as file:
        file.write_table(held)
    check(path)
    raw = bytearray(path.read_bytes())
    assert len(raw) > 3 << 20
    raw[2 << 20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"t.parquet is damaged \(its bytes .*\): make it again"):
        check(path)


def test_a_seal_that_is_none_is_damage(table):
    with pytest.raises(InputError, match="is damaged"):
        check_seal(table, {KEY: "crc32:0 bytes:1"}, "make it again")


def test_a_seal_copied_from_another_file_counts_as_none(table, tmp_path):
    other = tmp_path / "other.parquet"
    with pq.ParquetWriter(other, pa.schema({"b": pa.int64()})) as file:
        file.add_key_value_metadata({KEY: pq.read_metadata(table).metadata[KEY.encode()]})
    check(other)


def test_files_without_a_seal_are_not_checked_and_cannot_be_sealed(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    check(path)
    with pytest.raises(ValueError, match="no blank seal"):
        seal(path)


@pytest.mark.slow
def test_a_vocabulary_that_stands_alone_is_sealed(tmp_path):
    path = tmp_path / "vocabulary.parquet"
    made = make_vocabulary({"<pad>": 0, "<mask>": 1, "ENSG00000000003": 2}, {"ENSG00000000003": 2.5})
    made.write(path, sealed=True)
    assert Vocabulary.read(path).median[2] == 2.5
    raw = path.read_bytes()
    for at in range(4, len(raw), 3):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with suppress(InputError):
            found = Vocabulary.read(path)
            assert (found.ensembl_id, found.symbol) == (made.ensembl_id, made.symbol)
            assert np.array_equal(found.median, made.median, equal_nan=True)
