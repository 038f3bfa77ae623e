"""Kernels, encoder and the loop over batches import where there is no database, no cluster, no AnnData and no Numba."""

import subprocess
import sys

import pytest

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"duckdb", "ray", "anndata", "numba", "pandas", "transformers", "plotly"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
import rankshift.kernels.varlen_attention, rankshift.kernels.add_norm, rankshift.kernels.first_layer
import rankshift.screen.encoder.encoder, rankshift.screen.engine.shifts, rankshift.screen.embed.cell_embeddings
print("imported")
"""


@pytest.mark.slow
def test_the_loop_needs_torch_numpy_and_arrow():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "imported\n", done.stderr[-2000:]
