"""HDF5 files that their library does not survive, or whose data lie elsewhere."""

import struct

import h5py
import numpy as np
import pytest

from rankshift.screen.errors import InputError
from rankshift.screen.files import hdf5
from rankshift.screen.files.hdf5 import HEAP, damaged_heap, open_hdf5


@pytest.fixture
def texts(tmp_path):
    """A file with texts of variable length, which lie in a global heap."""
    path = tmp_path / "t.h5"
    with h5py.File(path, "w") as file:
        file["names"] = np.array([f"gene {'x' * i}" for i in range(50)], dtype=h5py.string_dtype())
        file["names"].attrs["encoding-type"] = "string-array"
    return path


def test_a_whole_file_is_opened(texts):
    assert texts.read_bytes().count(HEAP) > 0
    with open_hdf5(texts, "h5ad") as file:
        assert file["names"].asstr()[2] == "gene xx"


def test_a_heap_without_an_end_is_refused_before_the_library_looks_for_it(texts):
    raw = bytearray(texts.read_bytes())
    at = raw.index(HEAP)
    first = 16 + (16 + (struct.unpack_from("<Q", raw, at + 24)[0] + 7) // 8 * 8)  # the entry behind the first
    raw[at + first : at + first + 64] = bytes(64)
    texts.write_bytes(raw)
    assert damaged_heap(texts) == at
    with pytest.raises(InputError, match=f"is damaged \\(texts at byte {at:,} cannot be told apart\\)"):
        open_hdf5(texts, "h5ad")


@pytest.mark.parametrize("piece", [1, 5, 11, 64])
def test_heaps_are_found_wherever_a_file_is_cut_for_reading(texts, piece, monkeypatch):
    monkeypatch.setattr(hdf5, "PIECE", piece)
    raw = texts.read_bytes()
    known = [at for at in range(len(raw)) if raw.startswith(HEAP, at)]
    with texts.open("rb") as file:
        assert list(hdf5._heaps(file, len(raw))) == known != []


@pytest.mark.parametrize("tail", [b"", b"\x07", b"\xff" * 8, struct.pack("<Q", 16), struct.pack("<Q", 2**40)])
def test_bytes_that_only_look_like_a_heap_are_no_damage(tail, tmp_path):
    (tmp_path / "x").write_bytes(b"abc" + HEAP + tail)
    assert damaged_heap(tmp_path / "x") is None


def test_a_file_of_another_kind_is_refused(tmp_path):
    for content in (b"", b"counts"):
        (tmp_path / "x.h5ad").write_bytes(content)
        with pytest.raises(InputError, match="is not a readable h5ad file"):
            open_hdf5(tmp_path / "x.h5ad", "h5ad")


def test_an_array_of_which_nothing_is_stored_is_refused_at_any_depth_before_it_is_read(tmp_path):
    path = tmp_path / "x.h5ad"
    with h5py.File(path, "w") as file:
        large = {"dtype": "f4", "chunks": (1_000_000,), "compression": "gzip"}
        file.create_dataset("layers/counts/data", shape=(10**9,), **large)
        file.create_dataset("small", shape=(10_000_000,), **large)  # 40 MB of zeros, as a column that nobody filled
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match=r"/layers/counts/data is 3\.7 GiB of which 0 bytes are stored"):
        open_hdf5(path, "h5ad")
    with h5py.File(path, "a") as file:
        del file["layers"]
    with open_hdf5(path, "h5ad") as file:
        assert not file["small"][:1000].any()
