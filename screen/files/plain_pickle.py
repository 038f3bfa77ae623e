"""Pickles of plain values, read without unpickling: the stream is data here, never a program.

A reader of our own walks the opcodes and builds dictionaries, lists, tuples, text and numbers. It calls nothing that a stream
names: the few numpy names that dictionaries of this field hold (scalars, arrays, dtypes) are decoded from their bytes by
fixed rules. Everything else is refused by name. Python's Unpickler with an allow-list is not enough: numpy's own
reconstruction functions, fed with a forged dtype, read and write memory.
"""

import io
import math
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from rankshift.screen.errors import InputError
from rankshift.screen.files.one_line import one_line

LARGEST = 2 << 30  # bytes of a file: the raw pickles of a whole screen are far below
SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}  # bytes of a number, by numpy's letter
UCS4 = 4  # bytes of a character of numpy's text
BITS = 64  # of a whole number at most
TEXT = 1 << 16  # characters of a text of numpy at most

_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")


class _Name:
    """A class or function that the stream names; only `_called` knows what becomes of it."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Dtype:
    """A numpy dtype as a letter, a size in bytes and a byte order; `code` is what numpy may be asked for."""

    __slots__ = ("code",)

    def __init__(self, text: Any) -> None:
        if not isinstance(text, str):
            raise InputError("a dtype of a pickle is no text")
        letter, size = text.lstrip("<>|=")[:1], text.lstrip("<>|=")[1:]
        if letter == "U":
            known = size.isdecimal() and 0 < int(size) <= TEXT
        else:
            known = size.isdecimal() and int(size) in SIZES.get(letter, ())
        if not known:
            raise InputError(f"pickle holds numbers of dtype {text[:20]!r}, and only plain numbers and text are read")
        self.code = f"<{letter}{size}"

    def set_state(self, state: Any) -> None:
        """Take the byte order; whatever else a state of a dtype says (fields, flags) must be its absence."""
        if type(state) is not tuple or len(state) < 5 or any(state[2:5]) or state[1] not in ("<", ">", "|", "="):
            raise InputError("pickle holds a dtype with fields, and only plain numbers and text are read")
        self.code = (">" if state[1] == ">" else "<") + self.code[1:]

    def array(self, data: Any) -> np.ndarray:
        """The values that `data` spells, one-dimensional."""
        width = int(self.code[2:]) * (UCS4 if self.code[1] == "U" else 1)
        if not isinstance(data, bytes) or len(data) % width:
            raise InputError("bytes of a number in a pickle do not fit its type")
        if self.code[1] == "b":
            return np.frombuffer(data, np.uint8) != 0
        return np.frombuffer(data, np.dtype(self.code))


class _Array:
    """An array whose shape and bytes come with BUILD."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        """Take shape, dtype, order and bytes: numpy's (version, shape, dtype, is_fortran, data)."""
        if type(state) is not tuple or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise InputError("an array of a pickle holds objects, and only plain numbers and text are read")
        self.values = _shaped(state[4], state[2], state[1], state[3] is True)


def _shaped(data: Any, dtype: _Dtype, shape: Any, fortran: bool) -> np.ndarray:
    values = dtype.array(data)
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not whole or math.prod(shape) != len(values):
        raise InputError("an array of a pickle has another shape than its bytes")
    return values.reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Pickles of protocol 5 carry an array's bytes, dtype and shape at once."""
    if not isinstance(dtype, _Dtype):
        raise InputError("an array of a pickle holds objects, and only plain numbers and text are read")
    return _shaped(bytes(data), dtype, shape, order == "F")


def _scalar(dtype: Any, data: Any) -> Any:
    values = dtype.array(data) if isinstance(dtype, _Dtype) else np.empty(0)
    if len(values) != 1:
        raise InputError("a number of a pickle is no plain number")
    return values[0].item()


def _bytes(text: Any, encoding: Any) -> bytes:
    """Pickles of protocol 2 carry bytes as text in latin-1."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise InputError(f"pickle holds bytes in the encoding {str(encoding)[:20]!r}, and only latin1 is read")
    return text.encode("latin-1")


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {},
    "collections.defaultdict": lambda factory=None: {},
    "builtins.dict": lambda: {},
    "builtins.list": lambda: [],
    "builtins.bytes": lambda: b"",  # how protocols below 3 say no bytes
    "_codecs.encode": _bytes,
    "numpy.dtype": lambda text, align=False, copy=True: _Dtype(text),
    **{f"{core}.scalar": _scalar for core in _CORES},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    **{f"{core}._reconstruct": lambda kind, shape, letter: _Array() for core in _CORES},
}
_NAMED = {*_CALLS, "numpy.ndarray", "builtins.str", "builtins.int", "builtins.float"}

_PUSHED = {  # opcodes whose argument is the value itself
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MARK = object()


def read_pickle(path: Path) -> Any:
    """The plain value that a pickle holds: dict, list, tuple, text, bytes, numbers, None; arrays of numbers as numpy's.

    Raises InputError, in one line, where it holds or names anything else, is damaged, or is larger than LARGEST.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise InputError(f"{path} has {size:,} bytes, pickles up to {LARGEST:,} are read: convert it to .json or .csv")
    try:
        return _value(_run(path.read_bytes()))
    except InputError as error:
        raise InputError(f"{path}: {error}: convert it to .json or .csv") from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise InputError(f"{path} is not a readable pickle: {one_line(error)}: copy it again") from error


def _run(stream: bytes) -> Any:
    """Walk the opcodes; what is on the stack at STOP is the value."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        found = stack[at + 1 :]
        del stack[at:]
        return found

    for opcode, given, _ in pickletools.genops(io.BytesIO(stream)):
        op, argument = opcode.name, cast(Any, given)
        if op in _PUSHED:
            if isinstance(argument, int) and argument.bit_length() > BITS:
                raise InputError(f"pickle holds a number of {argument.bit_length()} bits, {BITS} are read")
            stack.append(argument)
        elif op in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if op == "MEMOIZE" else int(argument)] = stack[-1]
        elif op in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op == "MARK":
            stack.append(_MARK)
        elif op in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if op == "EMPTY_DICT" else [])
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(op[-1])
            stack[-count:] = [tuple(map(_value, stack[-count:]))]
        elif op in ("TUPLE", "LIST"):
            found = list(map(_value, since_mark()))
            stack.append(tuple(found) if op == "TUPLE" else found)
        elif op in ("APPEND", "APPENDS"):
            found = [stack.pop()] if op == "APPEND" else since_mark()
            _of(list, stack[-1]).extend(map(_value, found))
        elif op in ("SETITEM", "SETITEMS", "DICT"):
            found = [stack.pop(-2), stack.pop()] if op == "SETITEM" else since_mark()
            if op == "DICT":
                stack.append({})
            target = _of(dict, stack[-1])
            for key, value in zip(found[::2], found[1::2], strict=True):
                target[_value(key)] = _value(value)
        elif op in ("GLOBAL", "STACK_GLOBAL"):
            name = argument.replace(" ", ".", 1) if op == "GLOBAL" else f"{stack.pop(-2)}.{stack.pop()}"
            if name.replace("__builtin__", "builtins") not in _NAMED:
                raise InputError(f"pickle wants to load {name[:80]}, and only dictionaries of plain values are read")
            stack.append(_Name(name.replace("__builtin__", "builtins")))
        elif op in ("REDUCE", "NEWOBJ"):
            arguments = _of(tuple, stack.pop())
            stack.append(_called(stack.pop(), arguments))
        elif op == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Dtype | _Array):
                raise InputError(f"pickle gives a {type(stack[-1]).__name__} a state, and only plain values are read")
            stack[-1].set_state(state)
        elif op in ("POP", "POP_MARK"):
            _ = stack.pop() if op == "POP" else since_mark()
        elif op not in ("PROTO", "FRAME", "STOP"):
            raise InputError(f"pickle uses {op}, and only dictionaries of plain values are read")
    (value,) = stack
    return value


def _called(name: Any, arguments: tuple) -> Any:
    """What a name makes of its arguments, by a rule of ours."""
    rule = _CALLS.get(name.name) if isinstance(name, _Name) else None
    if rule is None:
        called = name.name if isinstance(name, _Name) else type(name).__name__
        raise InputError(f"pickle wants to call {called}, and only dictionaries of plain values are read")
    return rule(*arguments)


def _of(kind: type, value: Any) -> Any:
    """`value`, which must be a plain `kind` of ours."""
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} stands where a {kind.__name__} belongs")
    return value


def _value(value: Any) -> Any:
    """A finished value as it is stored in a container; a dtype or a name stays what it is, for the call it belongs to."""
    if value is _MARK:
        raise ValueError("a mark is out of place")
    if isinstance(value, _Array):
        if value.values is None:
            raise InputError("an array of a pickle has no values")
        return value.values
    return value
