"""The manifest of a run: what run.json says, as typed values, and as a read-only mapping of the same entries.

It reads schema version 1 and refuses, in one line, whatever is no manifest. Entries it does not know are kept, not judged.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rankshift.screen.errors import InputError
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.entries import Entries, Unfit, all_of, short, take, typed
from rankshift.screen.genes.framing import PLAIN, Frame
from rankshift.screen.runs.layout import MANIFEST, measures

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbEntry:
    """What is done to every cell. genes: tokens in the user's order, None for all that a cell has; anchor: gene of all pairs.

    kind is None of published results, which do not say it. frame: the special tokens around
    the genes of a cell. entries: all of the entry, with the options of the kind, for whoever makes a `Perturb` of it.
    """

    how: str
    kind: str | None = None
    genes: tuple[int, ...] | None = None
    anchor: int | None = None
    frame: Frame = PLAIN
    entries: Entries

    @staticmethod
    def of(found: Entries) -> "PerturbEntry":
        """The entry as it stands in run.json."""
        genes = take(found, "genes", list, None)
        return PerturbEntry(
            how=take(found, "how", str),
            kind=take(found, "kind", str, None),
            genes=None if genes is None else tuple(all_of(genes, "perturb.genes", int)),
            anchor=take(found, "anchor", int, None),
            frame=_frame(found.get("framed", False)),
            entries=dict(found),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The states of a screen from one to another: values of the obs column `key`."""

    key: str
    start: str
    goal: str
    alternatives: tuple[str, ...] = ()

    @property
    def states(self) -> list[str]:
        """Start, goal and alternatives, in the order of their columns."""
        return [self.start, self.goal, *self.alternatives]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenesKept:
    """How gene shifts are kept: apart for the values of the obs column `by`, or with a row for every cell."""

    by: str | None = None
    per_cell: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsScreened:
    """Which cells were screened. sha256: of their lists and ids as they were chosen; where: the SQL that chose them."""

    count: int
    sha256: str
    path: str
    where: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleUsed:
    """The model and vocabulary of a run."""

    path: str
    generation: str
    vocab_size: int
    weights_sha256: str
    vocabulary_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveAsked:
    """What an adaptive screen was asked: the `top` perturbations in at least `min_cells` cells, by the mean of `column`.

    highest: or the lowest; absolute: of largest size, whichever direction. confidence: share of them to be found. strata: obs
    column whose values give every block their share. fdr: genes that could be called at this rate are finished, too.
    earlier: rounds that were planned before this `top` was asked for. continued: all other rows were asked for afterwards.
    """

    top: int
    column: str
    highest: bool
    confidence: float
    seed: int
    min_cells: int
    strata: str | None = None
    absolute: bool = False
    fdr: float | None = None
    earlier: int = 0
    continued: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFloor:
    """|stored - float32| of one measured column over a sample (module `noise`); spread: of the stored values."""

    n: int
    median: float
    p99: float
    max: float
    spread: float | None = None
    rank_correlation: float | None = None
    top: int | None = None
    top_overlap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """What only a screen with a model has: its cells and bundle, and what was decided for the device of its workers.

    token_budget: rows of a batch; shard_tokens: rows of a shard. dtype_choice: why `dtype auto` became what it is.
    lists: perturbed lists; longest: rows of the longest one; flops: of all of them and the originals.
    """

    cells: CellsScreened
    bundle: BundleUsed
    layer: int
    layers: int
    token_budget: int
    shard_tokens: int
    dtype: str
    seed: int | None = None
    longest: int | None = None
    flops: float | None = None
    id: str | None = None
    dtype_choice: Entries = field(default_factory=dict)
    command: str | None = None
    date: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    unknown_genes: tuple[str, ...] = ()

    @staticmethod
    def of(found: Entries) -> "Screened":
        """The entries as they stand in run.json, flat among the others."""
        plain: dict[str, Any] = {name: take(found, name, int) for name in ("layer", "layers", "token_budget")}
        plain |= {name: take(found, name, int, None) for name in ("seed", "longest")}
        plain |= {name: take(found, name, str, None) for name in ("id", "command", "date")}
        return Screened(
            cells=typed(CellsScreened, found, "cells"),
            bundle=typed(BundleUsed, found, "bundle"),
            shard_tokens=take(found, "shard_tokens", int),
            dtype=take(found, "dtype", str),
            flops=take(found, "flops", float, None),
            dtype_choice=take(found, "dtype_choice", dict, {}),
            versions=take(found, "versions", dict, {}),
            unknown_genes=tuple(all_of(take(found, "unknown_genes", list, []), "unknown_genes", str)),
            **plain,
        )


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Manifest(Mapping[str, Any]):
    """What run.json says: typed, and by its keys as it stands there (`manifest["dtype"]`).

    states: vectors by name, empty where only the names are known. screened: None of a run without a model (published
    results, drawn values). quantity: what similarity is, in words. lists: perturbed lists, and so rows of a complete run.
    noise_floor: by measured column, None until it was measured. adaptive: set where not all rows are measured. more:
    entries that this version does not know.
    """

    perturb: PerturbEntry
    states: Mapping[str, Sequence[float]]
    route: Route | None
    gene_shifts: GenesKept | None
    shards: int
    embedding: str | None = None
    quantity: str | None = None
    lists: int | None = None
    screened: Screened | None = None
    noise_floor: Mapping[str, NoiseFloor] | None = None
    adaptive: AdaptiveAsked | None = None
    more: Entries = field(default_factory=dict)
    _entries: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_entries", self._written())

    def __getitem__(self, key: str) -> Any:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @staticmethod
    def read(run: Path) -> "Manifest":
        """The manifest of the run folder `run`; raises InputError where there is none that can be read."""
        place = run / MANIFEST
        try:
            found = json.loads(place.read_bytes().decode())
        except FileNotFoundError as e:
            raise InputError(f"{run} is not a run folder (no {MANIFEST}): give the --out of a screen") from e
        except RecursionError as e:
            raise InputError(f"{place} cannot be read (too deeply nested): run the screen again") from e
        except (OSError, ValueError) as e:
            raise InputError(f"{place} cannot be read ({e}): run the screen again") from e
        version = found.get("schema_version") if isinstance(found, dict) else SCHEMA_VERSION
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise InputError(
                f"{run} has schema {version!s:.40}, this version reads {SCHEMA_VERSION}: use the version that wrote it"
            )
        try:
            return _manifest(found)
        except Unfit as error:
            raise InputError(f"{place} is no manifest of a run ({error}): run the screen again") from error

    @staticmethod
    def published(
        *, states: Sequence[str], route: Sequence[str] | None, how: str, gene_shifts: GenesKept | None
    ) -> "Manifest":
        """Of results of the published code, whose files say little: one shard, no vectors, no model.

        route: state key, start, goal, alternatives.
        """
        return Manifest(
            perturb=PerturbEntry.of({"how": how}),
            states=dict.fromkeys(states, ()),
            route=None if route is None else route_of(route),
            gene_shifts=gene_shifts,
            shards=1,
        )

    @property
    def measures(self) -> list[str]:
        """Columns that measure what a perturbation did."""
        return measures(self.states)

    def replace(self, **changes: Any) -> "Manifest":
        """The manifest with typed values in the place of others."""
        return replace(self, **changes)

    def text(self) -> str:
        """What run.json holds."""
        return json.dumps(self._entries, indent=2)

    def write(self, run: Path) -> None:
        """Write run.json of the run folder, whole or not at all."""
        with replacing(run / MANIFEST) as temporary:
            temporary.write_text(self.text())

    def _written(self) -> dict[str, Any]:
        """The entries in the order in which a manifest has them; what is not known is left out."""
        route = self.route
        always: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "perturb": dict(self.perturb.entries),
            "states": {name: list(vector) for name, vector in self.states.items()},
            "route": None if route is None else [route.key, *route.states],
            "gene_shifts": None if self.gene_shifts is None else asdict(self.gene_shifts),
            "shards": self.shards,
        }
        known: dict[str, Any] = {"embedding": self.embedding, "quantity": self.quantity, "lists": self.lists}
        if self.screened is not None:
            known |= {f.name: getattr(self.screened, f.name) for f in fields(Screened)}
            known |= {"cells": asdict(self.screened.cells), "bundle": asdict(self.screened.bundle)}
            known["unknown_genes"] = list(self.screened.unknown_genes)
        if self.noise_floor is not None:
            known["noise_floor"] = {name: asdict(floor) for name, floor in self.noise_floor.items()}
        if self.adaptive is not None:
            known["adaptive"] = asdict(self.adaptive)
        entries = always | {name: value for name, value in known.items() if value is not None}
        return {name: entries[name] for name in _ORDER if name in entries} | dict(self.more)


_ORDER = (
    "schema_version", "perturb", "embedding", "layer", "layers", "quantity", "gene_shifts", "states", "route",
    "token_budget", "shard_tokens", "seed", "cells", "bundle", "dtype", "shards", "lists", "longest", "flops", "id",
    "dtype_choice", "command", "date", "versions", "unknown_genes", "noise_floor",
    "adaptive",
)  # fmt: skip


def route_of(names: Sequence[str]) -> Route:
    """A route as it stands in run.json: state key, start, goal, alternatives."""
    return Route(key=names[0], start=names[1], goal=names[2], alternatives=tuple(names[3:]))


def _manifest(found: Any) -> Manifest:
    """The manifest of run.json's value, which can be anything."""
    if not isinstance(found, dict):
        raise Unfit(f"it holds {short(found)}, an object is needed")
    states = take(found, "states", dict)
    vectors = {name: all_of(take(states, name, list, []), f"states.{name}", float) for name in states}
    names = take(found, "route", list, None)
    if names is not None and len(all_of(names, "route", str)) < 3:
        raise Unfit(f"route is {short(names)}, a key and two states or more are needed")
    floors = take(found, "noise_floor", dict, None)
    return Manifest(
        perturb=PerturbEntry.of(take(found, "perturb", dict)),
        states=vectors,  # published results have names alone
        route=None if names is None else route_of(names),
        gene_shifts=None if found.get("gene_shifts") is None else typed(GenesKept, found, "gene_shifts"),
        shards=take(found, "shards", int),
        embedding=take(found, "embedding", str, None),
        quantity=take(found, "quantity", str, None),
        lists=take(found, "lists", int, None),
        screened=Screened.of(found) if found.get("bundle") is not None else None,
        noise_floor=None if floors is None else {name: typed(NoiseFloor, floors, name) for name in floors},
        adaptive=None if found.get("adaptive") is None else typed(AdaptiveAsked, found, "adaptive"),
        more={name: value for name, value in found.items() if name not in _ORDER},
    )


def _frame(found: Any) -> Frame:
    if isinstance(found, bool) or (
        isinstance(found, list) and len(all_of(found, "framed", int)) == 2 and min(found) >= 0
    ):
        return Frame.of_record(found)
    raise Unfit(f"framed is {short(found)}, true, false or two numbers of tokens are needed")
