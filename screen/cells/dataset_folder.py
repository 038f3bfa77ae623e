"""A token table as the `.dataset` folder of the published package: what `datasets.load_from_disk` opens.

One Arrow stream, state.json and dataset_info.json, written without the `datasets` library; the folder appears whole.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rankshift.screen.cells.token_table import ROWS
from rankshift.screen.cells.uncropped import LENGTH_UNCROPPED, UNCROPPED
from rankshift.screen.files.atomic import replacing, sync
from rankshift.screen.files.seal import BLANK, KEY, seal

STREAM = "data-00000-of-00001.arrow"
_TYPES = {"double": "float64", "float": "float32", "halffloat": "float16"}  # what `datasets` calls them


def write_dataset(table: Path, folder: Path, columns: Mapping[str, str] | None = None) -> int:
    """Write the cells of the Parquet token table `table` to `folder`, in place of one that is there; returns how many.

    columns: {column of the table: column of the dataset}, between input_ids (list<int32>) and length (int64); all of the
    table's where none are named. Uncropped ranks come last, as input_ids_uncropped and length_uncropped.
    """
    if columns is None:
        own = ("input_ids", "length", UNCROPPED)
        columns = {name: name for name in pq.read_schema(table).names if name not in own}
    with replacing(folder, folders=True) as making:
        making.mkdir()
        cells = _fill(making, pq.ParquetFile(table), columns)
    return cells


def _fill(folder: Path, table: pq.ParquetFile, columns: Mapping[str, str]) -> int:
    held = table.schema_arrow
    fields = [pa.field("input_ids", pa.list_(pa.int32()))]
    fields += [pa.field(new, held.field(old).type) for old, new in columns.items()]
    fields.append(pa.field("length", pa.int64()))
    names = ["input_ids", *columns, "length"]
    if UNCROPPED in held.names:
        fields += [pa.field(UNCROPPED, pa.list_(pa.int32())), pa.field(LENGTH_UNCROPPED, pa.int64())]
        names.append(UNCROPPED)
    info = {"features": {field.name: _feature(field.type) for field in fields}}
    schema = pa.schema(fields, metadata={"huggingface": json.dumps({"info": info}), KEY: BLANK})
    digest, cells = hashlib.sha256(json.dumps(info).encode()), 0
    with pa.ipc.new_stream(str(folder / STREAM), schema) as stream:
        for batch in table.iter_batches(ROWS):
            arrays = [batch.column(name) for name in names]
            if UNCROPPED in names:
                arrays.append(pc.list_value_length(arrays[-1]))
            cast = [array.cast(field.type) for array, field in zip(arrays, fields, strict=True)]
            stream.write_batch(pa.RecordBatch.from_arrays(cast, schema=schema))
            digest.update(cast[0].flatten().to_numpy())
            cells += batch.num_rows
    seal(folder / STREAM)
    about = {"citation": "", "description": "", **info, "homepage": "", "license": ""}
    state: dict[str, Any] = {
        "_data_files": [{"filename": STREAM}],
        "_fingerprint": digest.hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    for name, content in (("dataset_info.json", about), ("state.json", state)):
        (folder / name).write_text(json.dumps(content, indent=2))
    for path in (*folder.iterdir(), folder):
        sync(path)
    return cells


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    return {"dtype": _TYPES.get(str(kind), str(kind)), "_type": "Value"}
