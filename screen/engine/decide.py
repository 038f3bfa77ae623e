"""What a screen decides for the device of its workers: batch and shard sizes, the dtype, and state vectors from cells.

A request travels to where the workers are, its answer is written into the run, and nobody decides it again: a resumed run
reads what is recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.cell_embeddings import embed
from rankshift.screen.embed.states import summarise
from rankshift.screen.encoder.cost import Extent, list_flops
from rankshift.screen.encoder.device import Device
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.noise import Sample, choose_dtype
from rankshift.screen.files.object_store import fetched

SHARD_LISTS = 64  # fewest lists of a shard that holds a part of a cell, because each computes the cell's original
SHARDS = 16  # of a small screen at least, so that several workers share it, down to a sixteenth of a shard's usual work
SHARD_GENES = 8_000_000  # rows of gene shifts before they are added up: some 700 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a decision depends on, and what the user decided already (dtype auto and None: not decided).

    bundle: a place that every worker finds. sample: some lists for the trial of dtypes, without state vectors and token
    budget. states: vectors that are known; state_cells, state_labels: cells to make them from, and the state of each.
    """

    bundle: str
    sample: Sample
    states: Mapping[str, Sequence[float]]
    state_cells: Cells | None
    state_labels: tuple[str, ...]
    extent: Extent
    gene_shifts: bool
    dtype: str
    token_budget: int | None
    shard_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided, as the manifest records it. dtype_choice: why `dtype auto` became what it is."""

    states: Mapping[str, Sequence[float]]
    token_budget: int
    shard_tokens: int
    dtype: str
    dtype_choice: Mapping[str, Any] = field(default_factory=dict)


def decide(request: Request, device: Device | None = None) -> Decision:
    """Decide for a device, by default that of this process."""
    device = device or Device.here()
    bundle = Bundle.open(fetched(request.bundle))
    measure = request.sample.measure
    budget = request.token_budget or device.token_budget
    states = request.states
    if request.state_cells is not None:
        encoder = Encoder(bundle, device=device.kind, dtype="float32")
        vectors = embed(request.state_cells, encoder, level=measure.level, layer_count=measure.layers, tokens=budget)
        made = summarise(vectors, request.state_labels)
        states = {name: [float(x) for x in vector] for name, vector in made.items()}
    dtype, why = request.dtype, dict[str, Any]()
    if dtype == "auto":
        known = np.array(list(states.values()), np.float32) if states else None
        sample = replace(request.sample, measure=replace(measure, states=known, tokens=budget))
        dtype, why = choose_dtype(sample, bundle, device)
    return Decision(
        states=states,
        token_budget=budget,
        shard_tokens=request.shard_tokens
        or shard_tokens(bundle, measure.layers, request.extent, request.gene_shifts, device),
        dtype=dtype,
        dtype_choice=why,
    )


def shard_tokens(bundle: Bundle, layers: int, extent: Extent, gene_shifts: bool, device: Device) -> int:
    """Rows of a shard on a device, where nobody asks for a number.

    How many workers there are does not enter, nor how fast they are, because the cut shows in the last bits of rows.
    """
    flops = list_flops(bundle.sizes, max(layers, 1), np.array([extent.mean_length]))[0]
    usual = device.shard_flops / (float(flops) / extent.mean_length)
    rows = min(usual, max(extent.rows, usual) / SHARDS)
    most = SHARD_GENES if gene_shifts else np.inf  # a row of a list is a row of gene shifts
    return int(max(min(rows, most), SHARD_LISTS * extent.longest))
