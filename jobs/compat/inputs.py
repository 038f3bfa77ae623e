"""What notebooks hand to the published classes: options, dictionaries, models and cells, checked and made ours.

A caller's dictionaries are read, never changed. What is not one of the published values is refused in one line.
"""

import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.cells.labels import label_meant, label_texts
from rankshift.screen.errors import InputError
from rankshift.screen.genes.vocabulary import Vocabulary

MODEL_TYPES = ("Pretrained", "GeneClassifier", "CellClassifier", "MTLCellClassifier")
QUANTIZED = ("Pretrained-Quantized", "MTLCellClassifier-Quantized")
PathLike = str | Path
logger = logging.getLogger("rankshift.compat")


class Deviation(UserWarning):
    """Something is done differently from the published code, on purpose."""


def deviates(text: str) -> None:
    """Warn at the line of the caller's own code, where Python shows the same warning once."""
    level = 2
    while sys._getframe(level - 1).f_globals.get("__name__", "").startswith(__package__):
        level += 1
    warnings.warn(text, Deviation, stacklevel=level)


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse a value that is not one of `allowed`."""
    if isinstance(value, bool) or not isinstance(value, str | int | None) or value not in allowed:
        raise InputError(f"{name} is {value!r}: use one of {', '.join(map(repr, allowed))}")


def count(name: str, value: Any, *, none: bool = False) -> None:
    """Refuse what is no positive whole number (or None, if `none`)."""
    if none and value is None:
        return
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r}: give a whole number of at least 1{' or None' if none else ''}")


def model_type(value: str) -> None:
    """Refuse an unknown model type; heads are never used, so all known ones are run alike."""
    one_of("model_type", value, (*MODEL_TYPES, *QUANTIZED))
    if value in QUANTIZED:
        deviates(f"model_type {value}: the weights are used as they are stored, not in 8 bits")


def generation(model_version: str | None, vocabulary: Vocabulary) -> None:
    """Refuse a dictionary that is not of the model version named (an option of later releases)."""
    one_of("model_version", model_version, (None, "V1", "V2"))
    found = "V1" if vocabulary.special.cls is None else "V2"
    if model_version not in (None, found):
        raise InputError(f"model_version is {model_version}, the token dictionary is of {found}: give one of the same")


def dictionary_file(name: str, value: PathLike | None, published: str) -> Path:
    """The path of a dictionary that the published package ships and this one does not."""
    if value is None:
        raise InputError(
            f"{name} is None, and the published dictionaries are not shipped here: give the path of {published} of the "
            "model's generation, from the folder of the published package"
        )
    if not isinstance(value, str | Path):
        raise InputError(f"{name} is a {type(value).__name__}: give the path of a file")
    return Path(value)


def token_file(value: PathLike | None) -> Path:
    """The path of the token dictionary."""
    return dictionary_file("token_dictionary_file", value, "token_dictionary_….pkl, {Ensembl id: token},")


def lists(filter_data: Mapping[str, Any] | None) -> dict[str, list]:
    """{column: values} with single values put into lists; the caller's dictionary stays as it is (PS B34)."""
    if filter_data is None:
        return {}
    if not isinstance(filter_data, Mapping):
        raise InputError(f"filter_data is a {type(filter_data).__name__}: give {{column: [values]}} or None")
    return {k: list(v) if isinstance(v, list | tuple | set) else [v] for k, v in filter_data.items()}


def states_of(cell_states: Mapping[str, Any]) -> tuple[str, Any, Any, list]:
    """State key, start, goal and alternatives of cell_states_to_model.

    The older form {column: ([start], [goal], [alternatives])} is read, too.
    """
    if not isinstance(cell_states, Mapping):
        raise InputError(f"cell_states_to_model is a {type(cell_states).__name__}: give a dictionary or None")
    if len(cell_states) == 1:
        ((key, route),) = cell_states.items()
        if isinstance(route, tuple | list) and len(route) in (2, 3):
            start, goal, *more = (list(s) if isinstance(s, list | tuple | set) else [s] for s in route)
            if len(start) != 1 or len(goal) != 1:
                raise InputError(
                    f"cell_states_to_model[{key!r}] is {route!r}: give one start and one goal, ([start], [goal], [others])"
                )
            cell_states = {"state_key": key, "start_state": start[0], "goal_state": goal[0]}
            cell_states["alt_states"] = more[0] if more else []
    missing = [key for key in ("state_key", "start_state", "goal_state") if cell_states.get(key) is None]
    if missing:
        raise InputError(
            f"cell_states_to_model lacks {missing[0]}: give state_key, start_state, goal_state, alt_states"
        )
    others = cell_states.get("alt_states") or []
    if not isinstance(others, list | tuple):
        raise InputError(f"alt_states is {others!r}: give a list")
    others = [state for state in others if state is not None]
    return str(cell_states["state_key"]), cell_states["start_state"], cell_states["goal_state"], others


def matching(cells: Cells, wanted: Mapping[str, Sequence[Any]]) -> Cells:
    """The cells whose columns hold one of the wanted values each, in their order. Raises InputError when none is left."""
    keep = np.ones(len(cells), bool)
    for column, values in wanted.items():
        if column != "length" and column not in cells.obs.column_names:
            raise InputError(f"{column!r} is not a column: the columns are {', '.join(cells.obs.column_names)}, length")
        held = pa.array(cells.lengths) if column == "length" else cells.obs.column(column)
        found, meant = label_texts(held, repr(column)).to_pylist(), {label_meant(held, value) for value in values}
        keep &= np.array([text in meant for text in found], bool)
        if not keep.any():
            there = ", ".join(map(repr, list(dict.fromkeys(found))[:10]))
            raise InputError(f"no cell has {column} in {list(values)}: the column holds {there}")
    return cells if keep.all() else cells.take(np.flatnonzero(keep))


@contextmanager
def workplace(
    model_directory: PathLike, token_dictionary: Path, output_directory: PathLike
) -> Iterator[tuple[Path, Bundle]]:
    """A temporary folder in the output directory (which all machines of a cluster see) and the bundle made in it."""
    out = Path(output_directory)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rankshift-", dir=out) as folder:
        yield Path(folder), make_bundle(Path(model_directory), token_dictionary, Path(folder) / "bundle")


def framing(cells: Cells, emb_mode: str) -> None:
    """Refuse an embedding mode that does not belong to the cells, all of which were looked at (PS B9)."""
    if cells.frame.head and "cls" not in emb_mode:
        raise InputError(
            f"the cells begin with <cls>, emb_mode is {emb_mode!r}: use {emb_mode.replace('cell', 'cls')!r}"
        )
    if not cells.frame.head and "cls" in emb_mode:
        raise InputError(f"the cells have no <cls>, emb_mode is {emb_mode!r}: use {emb_mode.replace('cls', 'cell')!r}")


def output_file(output_directory: PathLike, output_prefix: str, suffix: str) -> Path:
    """The file of a prefix; a dot in the prefix stays, where the published code cuts what follows it (PS B29)."""
    if "." in str(output_prefix):
        deviates(f"output_prefix {output_prefix!r} is kept whole, the published code cuts it at the last dot")
    return Path(output_directory) / f"{output_prefix}{suffix}"
