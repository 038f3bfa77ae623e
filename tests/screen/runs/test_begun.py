"""A shard that is stopped in its midst: what was done of it is found again, and the rows are those of one that was not."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from rankshift.kernels.cosine_shift import CosineShift
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.encoder import encoder as encoding
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener
from rankshift.screen.engine.shifts import GroupBegun
from rankshift.screen.runs import begun as beginning
from rankshift.screen.runs.begun import Begun
from rankshift.screen.runs.layout import BEGUN
from support import GOLDEN, LEVEL

STATES = {"states": GOLDEN / "v1/state_embeddings.json"}
KINDS = {
    "mean": {"perturb": "delete"},
    "states": {"perturb": "overexpress", **STATES},
    "genes": {"perturb": "delete", "gene_shifts": True},
    "float16": {"perturb": "delete", "dtype": "float16"},
}


class Counting(Encoder):
    """An encoder that counts the blocks it computes of edited cells, and stops a shard in the midst when it is told to."""

    stop_after = 10**9
    lists = 0

    def map(self, batches, work, **options):
        for block in super().map(batches, work, **options):
            if isinstance(block, tuple):  # of edited cells; an original's are hidden states
                self.lists += len(block[0].similarity)
                if self.lists > self.stop_after:
                    raise KeyboardInterrupt
            yield block


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Every cell has several blocks, and each is kept at once."""
    monkeypatch.setattr(encoding, "BLOCK_TOKENS", 300)
    monkeypatch.setattr(beginning, "EVERY", 0.0)


def opened(bundle: Bundle, out: Path, **options) -> Screener:
    options = {
        "dtype": "float32",
        "embedding": LEVEL[bundle.generation],
        "max_cells": 4,
        "token_budget": 2000,
        **options,
    }
    prepared = prepare(GOLDEN / bundle.generation / "cells.parquet", bundle, out, Options(**options))
    return Screener.open(prepared.path, bundle)


def parts(screener: Screener) -> dict[str, bytes]:
    folders = (screener.run.path / name for name in ("shifts", "genes"))
    return {path.name: path.read_bytes() for folder in folders if folder.is_dir() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_that_is_stopped_goes_on_where_it_was(kind, bundles, tmp_path):
    bundle = Bundle.open(bundles["v1"])
    quiet, stopped = (opened(bundle, tmp_path / name, **KINDS[kind]) for name in ("quiet", "stopped"))
    shard, dtype = stopped.shards[0], stopped.run.screened.dtype
    quiet.compute(quiet.shards[0], Encoder(bundle, dtype=dtype))
    told, computed = [], []
    for stop in (shard.lists // 4, shard.lists // 3, 10**9):
        encoder = Counting(bundle, dtype=dtype)
        encoder.stop_after, steps = stop, []
        if stop < shard.lists:
            with pytest.raises(KeyboardInterrupt):
                stopped.compute(shard, encoder, steps.append)
        else:
            stopped.compute(shard, encoder, steps.append)
        told.append(sum(steps))
        computed.append(encoder.lists)
    assert parts(stopped) == parts(quiet)
    assert told[2] == shard.lists, "rows that were there count as done"
    assert all(before < after for before, after in pairwise(told))
    assert sum(computed) < shard.lists + shard.lists // 4, "only the block in which it was stopped is computed again"
    assert not (stopped.run.path / BEGUN).exists()


def test_cls_rows_and_pairs_go_on_as_well(bundles, tmp_path):
    bundle = Bundle.open(bundles["v2"])
    gene = next(g for g, ok in zip(bundle.vocabulary.gene_of, bundle.vocabulary.is_gene, strict=True) if ok)
    for name, options in {
        "cls": {"perturb": "delete"},
        "pairs": {"perturb": "delete", "how": "pairs", "anchor": gene},
    }.items():
        quiet, stopped = (opened(bundle, tmp_path / f"{name}{i}", max_cells=12, **options) for i in range(2))
        shard = stopped.shards[0]
        whole, encoder, again = (Counting(bundle) for _ in range(3))
        quiet.compute(quiet.shards[0], whole)
        encoder.stop_after = whole.lists // 2
        with pytest.raises(KeyboardInterrupt):
            stopped.compute(shard, encoder)
        assert (stopped.run.path / BEGUN).is_dir()
        stopped.compute(shard, again)
        assert parts(stopped) == parts(quiet)
        assert again.lists + encoder.lists < whole.lists * 1.1, "the block in which it was stopped comes twice"


@pytest.mark.parametrize("harm", ["truncated", "flipped", "empty", "other device"])
def test_what_cannot_be_used_is_computed_again(harm, bundles, tmp_path):
    bundle = Bundle.open(bundles["v1"])
    quiet, stopped = (opened(bundle, tmp_path / name, perturb="delete") for name in ("quiet", "stopped"))
    quiet.compute(quiet.shards[0], Encoder(bundle))
    encoder = Counting(bundle)
    encoder.stop_after = stopped.shards[0].lists // 2
    with pytest.raises(KeyboardInterrupt):
        stopped.compute(stopped.shards[0], encoder)
    for path in (stopped.run.path / BEGUN).iterdir():
        data = bytearray(path.read_bytes())
        if harm == "flipped":
            data[len(data) // 3] ^= 0x10
        elif harm == "other device":
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
            np.savez(path, **{**arrays, "made_by": np.array('{"device": "cuda", "gpu": "H100"}')})
            continue
        path.write_bytes({"truncated": data[:-40], "flipped": data, "empty": b""}[harm])
    again = Counting(bundle)
    stopped.compute(stopped.shards[0], again)
    assert parts(stopped) == parts(quiet)
    if harm != "flipped":  # a byte of some array's name or padding may do no harm
        assert again.lists == stopped.shards[0].lists
    assert not (stopped.run.path / BEGUN).exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_what_is_computed_again_in_float32_is_kept_apart(dtype, bundles, tmp_path):
    """Also of int8, which has float32 beside its products on a processor: else a run that was killed would mix the two."""
    bundle = Bundle.open(bundles["v1"])
    screener, encoder = opened(bundle, tmp_path / "run", perturb="delete"), Encoder(bundle, dtype=dtype)
    kept = Begun(screener.run.path, "shard-000000", {})
    values = torch.arange(3, dtype=torch.float32)
    cosines = CosineShift(
        similarity=values, pairs=values.int(), cell_cosine=values, state_before=None, state_after=None, gene=None
    )
    GroupBegun(kept, 0).add(2000, encoder, 0, (cosines, None, None))
    again = GroupBegun(Begun(screener.run.path, "shard-000000", {}), 0)
    assert again.blocks(2000, encoder.wider) == []
    assert again.blocks(1000, encoder) == []
    assert len(again.blocks(2000, encoder)) == 1


def test_a_shard_does_not_fail_where_nothing_can_be_kept(bundles, tmp_path):
    bundle = Bundle.open(bundles["v1"])
    quiet, hindered = (opened(bundle, tmp_path / name, perturb="delete") for name in ("quiet", "hindered"))
    quiet.compute(quiet.shards[0], Encoder(bundle))
    (hindered.run.path / BEGUN).write_text("a file where the folder should be")
    hindered.compute(hindered.shards[0], Encoder(bundle))
    assert parts(hindered) == parts(quiet)


def test_two_workers_that_compute_one_shard_leave_files_that_fit(bundles, tmp_path):
    """A worker was taken to be dead and is not: what both kept is one row of blocks, whoever cut it where."""
    screener = opened(Bundle.open(bundles["v1"]), tmp_path / "run", perturb="delete")
    made_by = {"device": "cpu"}
    one, other = (Begun(screener.run.path, "shard-000000", made_by) for _ in range(2))
    for number in range(3):
        one.add("0-2000-float32", number, lambda number=number: {"x": np.full(2, number)})
    for number in range(2):
        other.add("0-2000-float32", number, lambda number=number: {"x": np.full(2, number)})
    other.add("1-2000-float32", 1, lambda: {"x": np.full(2, 9)})  # the first of this key is missing
    found = Begun(screener.run.path, "shard-000000", made_by)
    assert [int(block["x"][0]) for block in found.blocks("0-2000-float32")] == [0, 1, 2]
    assert found.blocks("1-2000-float32") == []
    assert Begun(screener.run.path, "shard-000001", made_by).blocks("0-2000-float32") == []
    one.clear()
    assert not (screener.run.path / BEGUN).exists()
