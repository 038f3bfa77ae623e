"""The reader of plain pickles: what Python pickles comes back, and what a hostile stream asks for does not happen."""

import collections
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from rankshift.screen.errors import InputError
from rankshift.screen.files.plain_pickle import read_pickle


def same(a: object, b: object) -> bool:
    """Equal, arrays by value, and of the same plain types."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype.kind == b.dtype.kind and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


VALUES = {
    "dictionary": {"a": 1, "b": 2.5, "c": "ü", "d": None, "e": True, "f": False, "g": -(2**40)},
    "raw values": {((5, 7), "cell_emb"): [0.5, -1e-9], ((5,), 3): [1.0]},
    "nested": {"fb": {(1, "cell_emb"): [0.25]}, "cm": {}},
    "memo": (lambda shared: {"a": shared, "b": [shared, shared]})([1, 2]),
    "arrays": {
        "c": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "bool": np.array([True, False]),
        "text": np.array(["ab", "c"]),
        "none": np.empty(0, np.float32),
    },
    "long": {str(i): i for i in range(3000)},
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", VALUES)
def test_what_python_pickles_comes_back(tmp_path, name, protocol):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(VALUES[name], protocol=protocol))
    assert same(VALUES[name], read_pickle(path))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_scalars_and_kinds_of_dictionaries_become_plain(tmp_path, protocol):
    path = tmp_path / "x.pkl"
    scalars = {
        "f": np.float32(0.1),
        "i": np.int64(-4),
        "b": np.bool_(True),
        "s": np.str_("héé"),
        "e": np.dtype(">f8").type(3),
    }
    for made in (collections.OrderedDict(scalars), collections.defaultdict(list, scalars)):
        path.write_bytes(pickle.dumps(made, protocol=protocol))
        found = read_pickle(path)
        assert found == {"f": float(np.float32(0.1)), "i": -4, "b": True, "s": "héé", "e": 3.0}
        assert type(found) is dict
        assert {type(v) for v in found.values()} == {float, int, bool, str}


def call(name: bytes, *arguments: bytes) -> bytes:
    """Opcodes that call a global; arguments are opcodes, too."""
    return b"c" + name.replace(b" ", b"\n") + b"\n(" + b"".join(arguments) + b"tR"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def short_bytes(value: bytes) -> bytes:
    return b"C" + bytes([len(value)]) + value


OBJECTS = call(b"numpy dtype", text("O8"), b"I0\n", b"I1\n")
FORGED = b"(I3\n" + text("|") + b"NNNI-1\nI-1\nI0\ntb"  # "holds no objects", of a dtype that does
POINTER = short_bytes(struct.pack("<Q", 0x4141414141414141))
FLOATS = call(b"numpy dtype", text("f8"), b"I0\n", b"I1\n")
FROM_BUFFER = b"numpy._core.numeric _frombuffer"
EMPTY = call(b"numpy._core.multiarray _reconstruct", b"cnumpy\nndarray\n", b"(I0\nt", short_bytes(b"b"))

HOSTILE = {
    "a pointer as a scalar of objects": call(b"numpy._core.multiarray scalar", OBJECTS + FORGED, POINTER),
    "an array of objects over bytes": EMPTY + b"(I1\n(I1\nt" + OBJECTS + FORGED + b"I00\n" + POINTER + b"tb",
    "an array over a buffer that it does not own": call(b"numpy ndarray", b"(I1\nt", OBJECTS, POINTER),
    "a codec that takes its time": call(b"_codecs encode", text("a" * 100), text("punycode")),
    "fields of a dtype": call(b"numpy dtype", text("V8"), b"I0\n", b"I1\n"),
    "a dtype of 2^40 characters": call(b"numpy dtype", text(f"U{2**40}"), b"I0\n", b"I1\n"),
    "eval": call(b"builtins eval", text("1")),
    "an attribute by a dotted name": call(b"builtins str.format", text("1")),
    "a call of what is no name": b"]" + b"tR",
    "the state of a function": b"cbuiltins\nlist\n}b",
    "another shape than bytes": call(FROM_BUFFER, short_bytes(b"\0" * 8), FLOATS, b"(I9\nt", text("C")),
    "a negative shape": call(FROM_BUFFER, short_bytes(b""), FLOATS, b"(I-1\nI0\nt", text("C")),
    "a persistent id": b"Pabc\n",
    "an extension": b"\x82\x01",
    "a number of 8 million bits": b"\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000,
    "a memo that is not there": b"h\x05",
    "a mark as a value": b"((t",
    "a dictionary as a key": b"}}}s",
    "no value": b"",
    "two values": b"NN",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_stream_is_refused_in_a_line(tmp_path, name):
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"\x80\x02" + HOSTILE[name] + b".")
    with pytest.raises(InputError, match=r"evil\.pkl") as refused:
        read_pickle(path)
    assert len(str(refused.value).splitlines()) == 1


def test_a_large_memo_number_takes_no_memory(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b".")  # Python's reader asks for 64 GB here
    assert read_pickle(path) == []


def test_every_truncation_is_refused(tmp_path):
    path: Path = tmp_path / "x.pkl"
    whole = pickle.dumps({"a": np.float64(1.5), "b": [1, (2, "c")]}, protocol=4)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"readable pickle|convert"):
            read_pickle(path)


def test_what_a_class_of_python_asks_for_is_named(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": Path("x")}))
    with pytest.raises(InputError, match=r"wants to load pathlib\."):
        read_pickle(path)
