"""`rankshift embed`: embeddings of cells to Parquet, or one vector per state of cells to states.json."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.jobs.progress import progress
from rankshift.screen.atomic import replacing
from rankshift.screen.bundle import Bundle
from rankshift.screen.cells import Cells, select
from rankshift.screen.encoder import Encoder, default_device, measured_layers
from rankshift.screen.errors import InputError
from rankshift.screen.originals import check_level
from rankshift.screen.originals import embed as embed_cells
from rankshift.screen.preparation import TOKEN_BUDGET
from rankshift.screen.states import summarise, write_states


def embed(
    cells: Path,
    bundle: Path,
    out: Path,
    *,
    level: str = "auto",
    layer: int = -1,
    by: str | None = None,
    summary: str = "mean",
    max_cells: int | None = None,
    dtype: str = "float32",
    say: Callable[[str], None] = print,
) -> None:
    """Embed the cells of a token table: rows in input order to .parquet, or with `by` {state: vector} to .json.

    level: cell (mean over the genes' rows), cls, or auto. layer: -1 second to last, 0 last. Every file records model, layer
    and level, because vectors of different ones have equal widths.
    """
    if (by is not None) != (out.suffix == ".json") or out.suffix not in (".json", ".parquet"):
        raise InputError(f"--out {out} does not fit: give a .parquet, or with --by COLUMN a .json")
    opened = Bundle.open(bundle)
    layers = measured_layers(opened.config, layer)
    table = Cells.read(cells, opened)
    for note in table.notes:
        say(note)
    level = ("cls" if table.framed else "cell") if level == "auto" else level
    check_level(level, table.framed)
    if by is not None:
        table = _sample_by(table, by, max_cells)
    elif max_cells is not None:
        table = table.take(np.sort(select(table, max_cells=max_cells)))
    device = default_device()
    encoder = Encoder(opened, device=device, dtype=dtype)
    with progress("cells", len(table)) as done:
        vectors = embed_cells(table, encoder, level=level, layer_count=layers, tokens=TOKEN_BUDGET[device], done=done)
    if by is not None:
        states = summarise(vectors, [str(x) for x in table.obs.column(by).to_pylist()], summary)
        write_states(states, out)
        say(
            f"{out}: {len(states)} states ({', '.join(states)}), {summary} of {len(table)} cells, {encoder.width} dimensions"
        )
        return
    stamp = {"level": level, "layer": str(layer), "weights_sha256": opened.weights_sha256}
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.width)
    result = table.obs.append_column("length", pa.array(table.lengths, pa.int32())).append_column("embedding", fixed)
    result = result.replace_schema_metadata({f"rankshift.{k}": v for k, v in stamp.items()})
    with replacing(out) as temporary:
        pq.write_table(result, temporary, compression="zstd")
    say(f"{out}: {len(table)} cells, {encoder.width} dimensions, level {level}, layer {layer}")


def _sample_by(cells: Cells, by: str, max_cells: int | None) -> Cells:
    if by not in cells.obs.column_names:
        raise InputError(f"--by {by!r} is not a column: the columns are {', '.join(cells.obs.column_names)}")
    states = dict.fromkeys(str(x) for x in cells.obs.column(by).to_pylist() if x is not None)
    rows = [select(cells, state_key=by, start=state, max_cells=max_cells) for state in states]
    return cells.take(np.concatenate(rows))
