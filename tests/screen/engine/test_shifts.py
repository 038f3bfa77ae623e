"""The loop over batches: what happens when memory runs out, and cells that have nothing to perturb."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rankshift.screen import InputError, run
from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.encoder.batches import batches, join
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.shifts import Measure, shifts_of
from rankshift.screen.genes.framing import PLAIN
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.perturbation import edits_of
from support import GOLDEN

CELLS = GOLDEN / "v1/cells.parquet"
DELETE = asked(kind="delete", how="each", genes=None, frame=PLAIN, limit=64)
MEASURE = Measure(level="cell", layers=2, states=None, tokens=3000)


class Small(Encoder):
    """An encoder whose device takes no block of more than `rows` rows."""

    rows = 200
    error: Exception = torch.OutOfMemoryError("CUDA out of memory")

    def hidden(self, block, *rest):
        if block.arrays.length.sum() > self.rows:
            raise self.error
        return super().hidden(block, *rest)


@pytest.fixture
def cells(bundles):
    return Cells.read(CELLS, Bundle.open(bundles["v1"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError(
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("HIP error: hipErrorOutOfMemory"),
    ],
    ids=lambda e: str(e)[-30:],
)
def test_batches_are_halved_until_they_fit(error, cells, bundles):
    bundle = Bundle.open(bundles["v1"])
    small = Small(bundle)
    small.error = error
    counted = []
    found = shifts_of(cells, np.arange(4), small, DELETE, MEASURE, done=counted.append)
    whole = shifts_of(cells, np.arange(4), Encoder(bundle), DELETE, MEASURE)
    np.testing.assert_allclose(found.similarity, whole.similarity, atol=1e-6)
    np.testing.assert_array_equal(found.key, whole.key)
    assert sum(counted) == len(whole.cell)
    assert found.batch_rows.max() <= small.rows
    assert whole.batch_rows.tolist() == [3000] * len(whole.cell)


def test_a_list_that_never_fits_is_an_error(cells, bundles):
    small = Small(Bundle.open(bundles["v1"]))
    small.rows = 10
    with pytest.raises(torch.OutOfMemoryError):
        shifts_of(cells, np.arange(1), small, DELETE, MEASURE)


def bundle_with(weights: dict[str, float], folder: Path) -> Bundle:
    """The golden model with some weights multiplied."""
    shutil.copytree(GOLDEN / "v1/model", folder / "model")
    (file,) = (folder / "model").glob("*.safetensors")
    held = load_file(file)
    for end, factor in weights.items():
        for name in (n for n in held if n.endswith(end)):
            held[name] *= factor
    save_file(held, file, {"format": "pt"})
    return make_bundle(folder / "model", GOLDEN / "v1/vocabulary.json", folder / "bundle")


@pytest.mark.slow
def test_what_overflows_16_bits_is_computed_again_in_float32_and_counted(cells, tmp_path):
    """The inner layer reaches 1e6, float16 ends at 65,504; the output layer takes it back."""
    weights = {"intermediate.dense.weight": 1e6, "intermediate.dense.bias": 1e6, ".output.dense.weight": 1.0}
    bundle = bundle_with(weights, tmp_path)
    counted = []
    found = shifts_of(cells, np.arange(3), Encoder(bundle, dtype="float16"), DELETE, MEASURE, done=counted.append)
    exact = shifts_of(cells, np.arange(3), Encoder(bundle), DELETE, MEASURE)
    assert np.isfinite(exact.similarity).all()
    np.testing.assert_array_equal(found.similarity, exact.similarity)
    np.testing.assert_array_equal(found.cell_cosine, exact.cell_cosine)
    assert found.wider.all()
    assert not exact.wider.any()
    assert sum(counted) == len(found.cell)
    done = run(CELLS, tmp_path / "bundle", tmp_path / "run", perturb="delete", dtype="float16", max_cells=3)
    (marker,) = done.committed.values()
    assert (
        marker["wider_rows"] == marker["rows"] == len(done.frame("SELECT similarity FROM shifts WHERE similarity < 2"))
    )


def test_values_that_fit_stay_in_16_bits(cells, bundles):
    found = shifts_of(cells, np.arange(2), Encoder(Bundle.open(bundles["v1"]), dtype="float16"), DELETE, MEASURE)
    assert not found.wider.any()


def test_weights_that_are_not_numbers_are_refused(cells, bundles):
    bundle = Bundle.open(bundles["v1"])
    weights = bundle.encoder_weights()
    weights["encoder.layer.0.attention.output.dense.bias"].fill_(float("nan"))
    with pytest.raises(InputError, match="perturbed lists have no finite value in float32"):
        shifts_of(cells, np.arange(2), Encoder(bundle, weights=weights), DELETE, MEASURE)


def test_other_errors_are_not_taken_for_memory(cells, bundles):
    small = Small(Bundle.open(bundles["v1"]))
    small.error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        shifts_of(cells, np.arange(4), small, DELETE, MEASURE)


def test_a_cell_without_the_gene_gets_no_row(cells, bundles):
    absent = next(t for t in range(2, 152) if t not in cells.ids_of(0))
    perturb = asked(kind="delete", how="each", genes=(absent,), frame=PLAIN, limit=64)
    found = shifts_of(cells, np.arange(1), Encoder(Bundle.open(bundles["v1"])), perturb, MEASURE)
    assert len(found.cell) == 0
    assert found.before.shape == (0, 0)


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_lists_of_cells_apart_share_the_first_layer_and_have_the_same_values(kind, cells, bundles):
    perturb = asked(kind=kind, how="each", genes=None, frame=PLAIN, limit=64)
    encoder = Encoder(Bundle.open(bundles["v1"]))
    some = {number: np.arange(1, 25, 2) for number in range(3)}
    joined, apart = (
        shifts_of(cells, np.arange(3), encoder, perturb, MEASURE, some, apart=apart) for apart in (False, True)
    )
    np.testing.assert_array_equal(joined.cell, apart.cell)
    np.testing.assert_array_equal(joined.key, apart.key)
    np.testing.assert_allclose(apart.measured, joined.measured, rtol=0, atol=1e-6)
    edits = [edits_of(cells.ids_of(number), perturb).part(lists) for number, lists in some.items()]
    lists = join(edits, cells.offsets[:3], cells.lengths[:3], [e.base_length for e in edits])
    for apart_, shares in ((False, [False]), (True, [True] * 3)):
        found = [batch.split is not None for batch in batches(torch.tensor(cells.ids), lists, 30_000, apart=apart_)]
        assert found == shares
