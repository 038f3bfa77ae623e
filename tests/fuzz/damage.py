"""What is done to a file: damage to its bytes, other values in its JSON, another file in its place, or nothing that matters.

Every function draws from the generator it is given and from nothing else, so a seed and a number are one case for ever.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "0", "nan", "\x00", "é", "../../x", "'; DROP TABLE shifts; --", "<script>", "a" * 10_000, [], {}, [[]], [None],
)  # fmt: skip


def bytes_changed(rng: random.Random, file: Path) -> str:
    """Bits turned over, stretches zeroed, cut out, put in, swapped or doubled, the end cut off."""
    raw = bytearray(file.read_bytes())
    if not raw:
        file.write_bytes(rng.randbytes(8))
        return "8 bytes in an empty file"
    at, size = rng.randrange(len(raw)), rng.randrange(1, 64)
    how = rng.choice(
        ["a bit", "a bit", "some bytes", "zeros", "cut out", "put in", "cut short", "empty", "doubled", "a tail"]
    )
    if how == "a bit":
        raw[at] ^= 1 << rng.randrange(8)
    elif how == "some bytes":
        for _ in range(size):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    elif how == "zeros":
        raw[at : at + size] = bytes(len(raw[at : at + size]))
    elif how == "cut out":
        del raw[at : at + size]
    elif how == "put in":
        raw[at:at] = rng.randbytes(size)
    elif how == "cut short":
        del raw[rng.choice([at, len(raw) - 1, len(raw) // 2, 4]) :]
    elif how == "empty":
        raw.clear()
    elif how == "doubled":
        raw += bytes(raw)
    else:
        raw += rng.randbytes(size)
    file.write_bytes(raw)
    return f"{how} at {at}"


def text_changed(rng: random.Random, file: Path) -> str:
    """Lines lost, twice or endless, other encodings, characters that no text has, brackets without end."""
    text = file.read_bytes().decode("utf-8", "replace")
    lines = text.splitlines() or [""]
    at = rng.randrange(len(lines))
    how = rng.choice(
        ["utf-16", "latin-1", "a line lost", "a line twice", "an endless line", "NUL", "brackets", "quotes", "commas"]
    )
    if how == "utf-16":
        file.write_bytes(text.encode("utf-16"))
        return how
    if how == "latin-1":
        file.write_bytes(("é" + text).encode("latin-1", "replace"))
        return how
    if how == "a line lost":
        del lines[at]
    elif how == "a line twice":
        lines.insert(at, lines[at])
    elif how == "an endless line":
        lines[at] *= 10_000 // (len(lines[at]) + 1) + 2
    elif how == "NUL":
        lines[at] += "\x00"
    elif how == "brackets":
        lines[at] = "[" * 100_000
    elif how == "quotes":
        lines[at] = f'"{lines[at]}'
    else:
        lines[at] = lines[at].replace("\t", ",") + ",,"
    file.write_text("\n".join(lines))
    return f"{how} in line {at}"


def json_changed(rng: random.Random, file: Path) -> str:
    """A value of another kind, a key lost, another or twice, or the whole in a list."""
    content = json.loads(file.read_text())
    place, path = content, []
    while isinstance(place, dict | list) and place:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        path.append(key)
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
            break
        place = inner
    if not path:
        file.write_text(json.dumps(rng.choice(ODD_VALUES)))
        return "an odd value in place of all"
    key = path[-1]
    how = rng.choice(["value", "value", "value", "lost", "renamed", "in a list"])
    if how == "value":
        place[key] = rng.choice(ODD_VALUES)
    elif how == "lost":
        del place[key]
    elif how == "renamed" and isinstance(place, dict):
        place[f"{key} "] = place.pop(key)
    else:
        content = [content]
    file.write_text(json.dumps(content))
    return f"{how} at {'/'.join(map(str, path))}"


def hdf5_changed(rng: random.Random, file: Path) -> str:
    """One number of one array is another: an index outside the matrix, a count below zero, no number at all."""
    with h5py.File(file, "r+") as opened:
        arrays = [name for name, array in _arrays(opened) if array.size and array.dtype.kind in "iuf"]
        array = opened[rng.choice(arrays)]
        place = tuple(rng.randrange(length) for length in array.shape)
        if array.dtype.kind == "f":
            value: float = rng.choice([float("nan"), float("inf"), -1.0, 0.5, 1e308])
        else:
            span = np.iinfo(array.dtype)
            value = rng.choice([span.min, span.max, 0, 1, max(-1, span.min), 1000, span.max // 2])
        with np.errstate(over="ignore"):
            array[place] = np.float64(value).astype(array.dtype) if array.dtype.kind == "f" else value
        return f"{value} in {array.name} at {place}"


def hdf5_rewritten(rng: random.Random, file: Path) -> str:
    """The same groups and arrays as another program writes them: in another order, in chunks and compressed."""
    whole = file.with_name(f"{file.name}.whole")
    file.rename(whole)
    compression = rng.choice([None, "gzip", "lzf"])
    with h5py.File(whole) as source, h5py.File(file, "w") as target:
        target.attrs.update(source.attrs)
        names = list(source)
        rng.shuffle(names)
        for name in names:
            source.copy(name, target)
        for name, array in _arrays(source):
            if array.size and array.dtype.kind in "iuf":
                attributes = dict(array.attrs)
                del target[name]
                target.create_dataset(name, data=array[:], chunks=True, compression=compression)
                target[name].attrs.update(attributes)
    whole.unlink()
    return f"written anew, {compression}"


def _arrays(file: h5py.File) -> list[tuple[str, h5py.Dataset]]:
    """Arrays of at least one dimension, in the order of their names."""
    found: list[tuple[str, h5py.Dataset]] = []
    file.visititems(
        lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) and item.shape else None
    )
    return sorted(found, key=lambda pair: pair[0])


def replaced(rng: random.Random, file: Path) -> str:
    """A folder, a link to itself, a file of another kind, or nothing in its place."""
    how = rng.choice(["a folder", "a link to itself", "a picture", "nothing", "a pickle"])
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how == "a link to itself":
        file.symlink_to(file.name)
    elif how == "a picture":
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    elif how == "a pickle":
        file.write_bytes(b"cposix\nsystem\n(S'touch executed'\ntR.")
    return f"{how} in its place"


def json_rewritten(rng: random.Random, file: Path) -> str:
    """The same content, its keys in another order and spread over lines."""
    content = json.loads(file.read_text())
    if isinstance(content, dict):
        keys = list(content)
        rng.shuffle(keys)
        content = {key: content[key] for key in keys}
    file.write_text(json.dumps(content, indent=rng.choice([None, 1, 4])))
    return "written anew"


def text_rewritten(rng: random.Random, file: Path) -> str:
    """The same lines with a byte order mark, other line ends, or an empty line at the end."""
    text = file.read_text()
    how = rng.choice(["byte order mark", "line ends", "an empty line"])
    if how == "byte order mark":
        file.write_text(text, encoding="utf-8-sig")
    elif how == "line ends":
        file.write_bytes(text.replace("\n", "\r\n").encode())
    else:
        file.write_text(text + "\n")
    return how


def parquet_rewritten(rng: random.Random, file: Path) -> str:
    """The same table as another program writes it: other row groups and compression, its own metadata."""
    import pyarrow.parquet as pq

    how = rng.choice(["snappy", "zstd", "none"])
    pq.write_table(pq.read_table(file), file, compression=how, row_group_size=rng.choice([1, 3, 1000]))
    return f"written anew, {how}"


Damage = Callable[[random.Random, Path], str]
