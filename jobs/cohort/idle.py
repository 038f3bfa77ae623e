"""An edit that changes nothing: the gene that leads a cell's list is put to its front. Its shift must be zero, exactly.

What is not zero here is arithmetic, and the same arithmetic stands behind every other value of the study.
"""

import json
from pathlib import Path

import numpy as np

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.cells.stored import StoredCells
from rankshift.screen.encoder.device import default_device
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.shifts import Measure, shifts_of
from rankshift.screen.files.atomic import replacing
from rankshift.screen.perturb.asked import asked
from rankshift.screen.runs import layout
from rankshift.screen.runs.run import Run

CELLS = 4  # of every fold: each costs two passes


def idle_shifts(run: Run, bundle: Bundle) -> np.ndarray:
    """float32 [n, states]: shifts of edits that change nothing, in the first cells of a run, in float32."""
    frame = bundle.frame_tokens.frame
    table = StoredCells.open(run.path / layout.CELLS, bundle, frame)
    device = default_device()
    encoder = Encoder(bundle, device=device, dtype="float32")
    manifest = run.manifest
    states = np.array([manifest.states[name] for name in run.states], np.float32)
    tokens = run.screened.token_budget
    measure = Measure(level=str(manifest.embedding), layers=run.screened.layers, states=states, tokens=tokens)
    found = []
    for cell in range(min(CELLS, len(table))):
        lead = int(table.ids_of(cell)[frame.head])
        perturb = asked("overexpress", how="each", genes=(lead,), frame=frame, limit=bundle.input_size)
        found.append(shifts_of(table, np.array([cell]), encoder, perturb, measure).measured[:, 1:])
    return np.concatenate(found)


def write_idle(found: dict[int, np.ndarray], path: Path) -> float:
    """Write idle.json: the number of edits, and the largest size of a shift over all folds, which is returned."""
    largest = max(float(np.abs(values).max()) for values in found.values())
    said = {"edits": sum(map(len, found.values())), "largest": largest}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(said, indent=2) + "\n")
    return largest
