"""A small cohort with a planted difference between its states, and an encoder with random weights that learns it in seconds."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rankshift.jobs.cohort.folder import Folder
from rankshift.jobs.cohort.study import study
from rankshift.screen.cells.cells import Cells
from rankshift.screen.genes.vocabulary import Vocabulary, make_vocabulary
from support import STUDY, random_bundle

GENES, DONORS, CELLS = 30, 6, 24  # cells of a donor and state


def drawn_cells(table: Vocabulary, *, told: bool = True) -> Cells:
    """Cells of ten genes: sick ones have most of genes 0 to 4 in front, well ones of genes 5 to 9; told: or by chance."""
    rng, first = np.random.default_rng(5), int(np.argmax(table.is_gene))
    lists, columns = [], {"state": [], "donor": [], "site": [], "kit": [], "half": [], "asked": []}
    for donor in range(DONORS):
        for i in range(2 * CELLS):
            state = i % 2
            own = rng.permutation(5)[:4] + 5 * (state if told else rng.integers(2))
            rest = 10 + rng.permutation(GENES - 10)[:6]
            lists.append(first + np.concatenate([own, rest]))
            columns["state"].append(["sick", "well"][state])
            columns["donor"].append(f"d{donor}")
            columns["site"].append("AB"[donor % 2])
            columns["kit"].append("PQ"[state])
            columns["half"].append(f"d{donor}{state}")
            columns["asked"].append(f"d{donor}" if donor + i else None)
    obs = pa.table({"cell_id": [f"c{i}" for i in range(len(lists))], **columns})
    offsets = np.cumsum([0, *map(len, lists)])
    return Cells(ids=np.concatenate(lists).astype(np.int32), offsets=offsets, obs=obs)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, cells.parquet of states that differ, and untold.parquet of states that do not."""
    folder = tmp_path_factory.mktemp("cohort")
    names = ["<pad>", "<mask>", *(f"ENSG{i:011d}" for i in range(GENES))]
    table = make_vocabulary({name: token for token, name in enumerate(names)})
    random_bundle(folder, table)
    drawn_cells(table).write(folder / "cells.parquet", table)
    drawn_cells(table, told=False).write(folder / "untold.parquet", table)
    return folder


@pytest.fixture(scope="module", autouse=True)
def small_models(one_thread: None) -> None:
    """All that is trained here is small."""


@pytest.fixture(scope="session")
def cohort(planted: Path) -> tuple[Path, Path]:
    """(cells, bundle)."""
    return planted / "cells.parquet", planted / "bundle"


@pytest.fixture(scope="session")
def untold(planted: Path) -> tuple[Path, Path]:
    """(cells, bundle) of states that cannot be told apart."""
    return planted / "untold.parquet", planted / "bundle"


@pytest.fixture(scope="session")
def done(cohort: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A whole study of all genes. Not to be changed."""
    return study(*cohort, tmp_path_factory.mktemp("done") / "study", **STUDY)
