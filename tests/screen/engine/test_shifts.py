"""The loop over batches: what happens when memory runs out, and cells that have nothing to perturb."""

import numpy as np
import pytest
import torch

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.shifts import Measure, shifts_of
from rankshift.screen.genes.framing import PLAIN
from rankshift.screen.perturb.asked import asked
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


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
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


def test_a_list_that_never_fits_is_an_error(cells, bundles):
    small = Small(Bundle.open(bundles["v1"]))
    small.rows = 10
    with pytest.raises(torch.OutOfMemoryError):
        shifts_of(cells, np.arange(1), small, DELETE, MEASURE)


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
