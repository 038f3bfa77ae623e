"""Which gene a column is: by ids, by symbols where most are some, and a line that helps where it is neither."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from rankshift.screen.errors import InputError
from rankshift.screen.genes.token_space import VocabularyOnly
from rankshift.screen.genes.vocabulary import make_vocabulary
from rankshift.screen.tokenizer.counts import CountsInMemory, again
from rankshift.screen.tokenizer.gene_columns import match_columns, species_of
from rankshift.screen.tokenizer.source import tokenize

IDS = [f"ENSG{i:011d}" for i in range(1, 21)]
SYMBOLS = [f"GENE{i}" for i in range(1, 21)]
JOINED = [f"{symbol}_{name}" for symbol, name in zip(SYMBOLS, IDS, strict=True)]
VOCABULARY = make_vocabulary(
    {name: i for i, name in enumerate(["<pad>", "<mask>", *IDS])},
    dict.fromkeys(IDS, 1.0),
    dict(zip(SYMBOLS, IDS, strict=True)),
)
DRAFT = VocabularyOnly(path=Path("vocabulary.parquet"), vocabulary=VOCABULARY, input_size=64, aliases={})


def var(names, **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=list(names))


def match(frame: pd.DataFrame):
    return match_columns(Path("x.h5ad"), frame, VOCABULARY, {}, 0.1)


@pytest.mark.parametrize(
    "frame",
    [
        var(SYMBOLS),
        var(range(20), feature_name=SYMBOLS),
        var([*SYMBOLS[:12], *(f"X{i}" for i in range(8))]),
    ],
)
def test_symbols_are_taken_where_most_of_a_column_are_some(frame):
    found = match(frame)
    assert found.by_symbol == found.mapped >= 12
    assert found.token[:12].tolist() == [VOCABULARY.by_symbol[name] for name in SYMBOLS[:12]]


def test_ids_of_the_census_come_before_its_symbols():
    bare = pd.DataFrame({"feature_id": IDS, "feature_name": ["S"] * len(IDS)}, index=[str(i) for i in range(len(IDS))])
    found = match(bare)
    assert (found.label, found.mapped, found.by_symbol) == ("feature_id", len(IDS), 0)


def test_ids_come_before_symbols():
    assert match(var(SYMBOLS, gene_ids=IDS[::-1])).label == "gene_ids"


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            var([i.replace("ENSG", "ENSMUSG") for i in IDS]),
            r"ids of mouse \(ENSMUSG00000000001\), the vocabulary is of human",
        ),
        (var([f"FBgn{i:07d}" for i in range(20)]), "holds ids of fly"),
        (
            var([f"{s}_{i}" for s, i in zip(SYMBOLS, IDS, strict=True)]),
            r"ids inside of longer names \(GENE1_ENSG00000000001\)",
        ),
        (var([name.capitalize() for name in SYMBOLS]), r"20 symbols in another case \(Gene1\), as those of mice"),
        (var([*SYMBOLS[:1], *(f"Gm{i}" for i in range(19))]), "give Ensembl ids or symbols of the vocabulary's series"),
        (var(range(20), mine=IDS), "column 'mine' holds ids of 20 genes, give --gene-column mine"),
    ],
)
def test_what_does_not_match_is_called_by_its_name(frame, message):
    with pytest.raises(InputError, match=message):
        match(frame)


def test_ids_in_names_are_taken_out_as_the_line_says():
    names = pd.Index(JOINED)
    frame = var(names)
    frame["ensembl_id"] = names.str.extract(r"(ENS[A-Z]*\d+)", expand=False).to_numpy()
    assert match(frame).mapped == 20


@pytest.mark.parametrize(
    ("labels", "species"),
    [
        (["ENSG00000000003", "ensg00000000005.2", "x"], "human"),
        (["ENSDARG00000000001"], "zebrafish"),
        (["ENSXYZG00000000001"], "ENSXYZG"),
        (["GENE1", "GENE2", "ENSG00000000003"], None),
        ([], None),
    ],
)
def test_species_by_their_ids(labels, species):
    assert species_of(labels) == species


@pytest.mark.parametrize(("genes", "said"), [(9, True), (10, False), (20, False)])
def test_a_part_of_the_genes_is_said_to_be_one(genes, said):
    adata = anndata.AnnData(sp.csr_matrix(np.arange(2 * genes).reshape(2, genes) + 30.0), var=var(IDS[:genes]))
    notes = [note for note in tokenize(adata, DRAFT).notes if "ranks are those of a part of the genes" in note]
    assert bool(notes) == said
    assert not said or f"holds {genes} of the 20 genes" in notes[0]


def test_what_lies_in_memory_is_read_once_where_it_is_alone():
    counts = CountsInMemory(anndata.AnnData(sp.csr_matrix(np.full((2, 20), 30.0)), var=var(IDS)))
    with again(counts, lambda: pytest.fail("opened again"), True)() as kept:  # type: ignore[arg-type]
        assert kept is counts
    opener = lambda: counts  # noqa: E731
    assert again(counts, opener, False) is opener
