"""A perturbation by the name of its kind, from options or from a run's record. It refuses options that are not the kind's."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from rankshift.screen.errors import InputError
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.kinds import KINDS, taking
from rankshift.screen.perturb.perturbation import Kind, Perturb

REFUSED = {  # of options that change what is asked, where a kind that does not take them gets them
    "rank_shift": "--rank-shift and --to belong to {takers}, not to {kind}: leave them out",
    "to": "--rank-shift and --to belong to {takers}, not to {kind}: leave them out",
    "refill": "--refill fills what a deletion leaves free, {kind} frees nothing: leave it out",
}


def kind_of(name: str) -> Kind:
    """The kind of this name."""
    if name not in KINDS:
        raise InputError(f"perturbation kind {name!r} is unknown: use one of {', '.join(KINDS)}")
    entry = KINDS[name]
    found: Kind = getattr(import_module(entry.module), entry.attribute)
    return found


def asked(kind: str, **options: Any) -> Perturb:
    """The perturbation of a kind; options: the other fields of `Perturb`. Raises InputError for what does not fit.

    >>> import numpy as np
    >>> from rankshift.screen.perturb.perturbation import edits_of
    >>> edits = edits_of(np.array([10, 11, 12, 13]), asked("delete", how="each", genes=None, frame=Frame(), limit=16))
    >>> edits.key.tolist(), edits.source[:, 0].tolist(), edits.length.tolist()
    ([10, 11, 12, 13], [0, 1, 2, 3], [3, 3, 3, 3])
    """
    found = kind_of(kind)
    perturb = Perturb(kind=found, **options)
    for option, refusal in REFUSED.items():
        if option not in KINDS[kind].options and options.get(option) not in (None, False):
            raise InputError(refusal.format(takers=" and ".join(taking(option)), kind=kind))
    return perturb


def recorded(record: Mapping[str, Any]) -> Perturb:
    """What a run's record says (`Perturb.record`)."""
    rest = {name: value for name, value in record.items() if name not in ("framed", "genes")}
    genes = None if record["genes"] is None else tuple(record["genes"])
    return asked(**rest, genes=genes, frame=Frame.of_record(record["framed"]))
