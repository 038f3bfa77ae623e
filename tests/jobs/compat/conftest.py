"""Labelled cells for the classes that train, and one thread for their small models."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rankshift.screen.cells.cells import Cells
from rankshift.screen.genes.vocabulary import read_vocabulary
from support import GOLDEN

DONORS = [f"p{i}" for i in range(9)]  # three of each disease
DISEASES = ["nf", "hcm", "dcm"]
GENES = 10  # of each disease, which its cells hold among others


@pytest.fixture(scope="module", autouse=True)
def small_models(one_thread: None) -> None:
    """All that is trained here is small."""


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[str, Path]:
    """{generation: .dataset of 90 cells of nine donors}: most genes of a cell are of its donor's disease."""
    folder, made = tmp_path_factory.mktemp("cells"), {}
    for generation in ("v1", "v2"):
        table, rng = read_vocabulary(GOLDEN / generation / "token_dictionary.pkl"), np.random.default_rng(0)
        genes = np.flatnonzero(table.is_gene)
        lists = []
        for i in range(90):
            own = genes[GENES * (i % 9 // 3) :][:GENES]
            mixed = rng.permutation([*rng.choice(own, 9, replace=False), *rng.choice(genes[30:], 3, replace=False)])
            head = [] if table.special.cls is None else [table.special.cls]
            lists.append([*head, *mixed, *([] if table.special.eos is None else [table.special.eos])])
        donor = [DONORS[i % 9] for i in range(90)]
        obs = pa.table(
            {
                "cell_id": [f"c{i}" for i in range(90)],
                "disease": [DISEASES[i % 9 // 3] for i in range(90)],
                "individual": donor,
                "age": [40 + int(d[1]) * 7 % 30 for d in donor],
                "sex": [("f", "m")[int(d[1]) % 2] for d in donor],
            }
        )
        offsets = np.cumsum([0, *map(len, lists)])
        frame = table.frame_tokens.frame
        cells = Cells(ids=np.concatenate(lists).astype(np.int32), offsets=offsets, obs=obs, frame=frame)
        made[generation] = folder / f"{generation}.dataset"
        cells.write(made[generation], table)
    return made
