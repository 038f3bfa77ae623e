"""Argument forms that public notebooks use: file choice, gene index, AnnData in memory, and older forms of states."""

import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from rankshift.compat import EmbExtractor, InSilicoPerturber, InSilicoPerturberStats, TranscriptomeTokenizer
from rankshift.compat.inputs import states_of
from rankshift.screen.errors import InputError
from support import GOLDEN


def tokenizer(generation: str, **options) -> TranscriptomeTokenizer:
    """The call of the current examples, with the dictionaries added."""
    root = GOLDEN / generation
    given = {
        "custom_attr_name_dict": {"cell_type": "cell_type"},
        "nproc": 4,
        "model_input_size": 64,
        "special_token": generation == "v2",
        "collapse_gene_ids": True,
        "use_h5ad_index": False,
        "keep_counts": False,
        "model_version": generation.upper(),
        "gene_median_file": root / "medians.json",
        "gene_mapping_file": root / "ensembl_mapping.json",
        "token_dictionary_file": root / "token_dictionary.pkl",
    }
    return TranscriptomeTokenizer(**{**given, **options})


def published(generation: str) -> list[list[int]]:
    """Lists of the published tokenizer, framed and cut at 64."""
    return json.loads((GOLDEN / generation / "tokens.json").read_text())["input_ids"]


def bare(generation: str, ids: list[int]) -> list[int]:
    return ids[1:-1] if generation == "v2" else ids


@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_lists_of_an_anndata_and_the_data_set_of_them(generation, tmp_path):
    path, tk = GOLDEN / generation / "cells.h5ad", tokenizer(generation)
    held = anndata.read_h5ad(path)
    want = published(generation)
    for source in (path, str(path), held):
        cells, metadata, counts = tk.tokenize_anndata(source, target_sum=10_000, file_format="h5ad")
        assert len(cells) == len(want)
        assert counts == []
        for ids, theirs in zip(cells, want, strict=True):
            told = bare(generation, theirs)
            assert ids[: len(told)].tolist() == told
    passed = held.obs[held.obs["filter_pass"] == 1]
    assert metadata == {"cell_type": passed["cell_type"].astype(str).tolist()}
    datasets = pytest.importorskip("datasets")
    made = tk.create_dataset(cells, metadata, use_generator=False)
    assert isinstance(made, datasets.Dataset)
    assert made["input_ids"][:] == want
    assert made["length"][:] == [len(ids) for ids in want]
    assert tokenizer(generation, custom_attr_name_dict=None).tokenize_anndata(path)[1] is None


def test_ids_in_the_index_and_files_by_a_part_of_their_name(tmp_path):
    """The names of var are the ids, and a column ensembl_id says something else, as after a careless rename."""
    held = anndata.read_h5ad(GOLDEN / "v1" / "cells.h5ad")
    ids = held.var["ensembl_id"].astype(str).to_numpy() if "ensembl_id" in held.var else held.var_names.to_numpy()
    held.var = pd.DataFrame({"ensembl_id": np.roll(ids, 1)}, index=ids)
    (tmp_path / "in").mkdir()
    held.write_h5ad(tmp_path / "in" / "heart_indexed.h5ad")
    shutil.copy(GOLDEN / "v1" / "cells.h5ad", tmp_path / "in" / "other.h5ad")
    tokenizer("v1", use_h5ad_index=True).tokenize_data(
        data_directory=tmp_path / "in",
        output_directory=tmp_path,
        output_prefix="index",
        file_format="h5ad",
        input_identifier="heart",
    )
    tokenizer("v1").tokenize_data(tmp_path / "in", tmp_path, "column", file_format="h5ad", input_identifier="heart")
    datasets = pytest.importorskip("datasets")
    assert datasets.load_from_disk(str(tmp_path / "index.dataset"))["input_ids"][:] == published("v1")
    assert datasets.load_from_disk(str(tmp_path / "column.dataset"))["input_ids"][:] != published("v1")
    with pytest.raises(InputError, match=r"no file of .* has 'liver' in its name: there are heart_indexed.h5ad, other"):
        tokenizer("v1").tokenize_data(tmp_path / "in", tmp_path, "x", file_format="h5ad", input_identifier="liver")


def test_what_is_refused():
    with pytest.raises(InputError, match="keep_counts=True is not here: set it False"):
        tokenizer("v1", keep_counts=True)
    with pytest.raises(InputError, match="tokenized_counts is not taken here"):
        tokenizer("v1").create_dataset([[5]], None, [[1.0]])
    with pytest.raises(InputError, match="save_tdigest=True is not here"):
        EmbExtractor(emb_mode="cell", save_tdigest=True, token_dictionary_file=GOLDEN / "v1" / "token_dictionary.pkl")


OLDER = {"disease": (["dcm"], ["nf"], ["hcm"])}
NAMED = {"state_key": "disease", "start_state": "dcm", "goal_state": "nf", "alt_states": ["hcm"]}


def test_states_in_the_older_form():
    assert states_of(OLDER) == states_of(NAMED) == ("disease", "dcm", "nf", ["hcm"])
    assert states_of({"age": ([3], [4])}) == ("age", 3, 4, [])
    assert states_of({"disease": ("dcm", "nf", [])}) == ("disease", "dcm", "nf", [])
    for wrong, message in (
        ({"disease": (["dcm", "hcm"], ["nf"], [])}, "give one start and one goal"),
        ({"disease": None}, "lacks state_key"),
        ({"disease": (["dcm"],)}, "lacks state_key"),
    ):
        with pytest.raises(InputError, match=message):
            states_of(wrong)


@pytest.mark.slow
def test_a_notebook_in_the_older_form(tmp_path):
    """Perturb between states and test the shifts: the call of the first releases, with the dictionary and states added."""
    dictionary = {"token_dictionary_file": GOLDEN / "v1" / "token_dictionary.pkl"}
    vectors = json.loads((GOLDEN / "v1" / "state_embeddings.json").read_text())
    files = {}
    for name, states in (("older", OLDER), ("named", NAMED)):
        isp = InSilicoPerturber(
            perturb_type="delete",
            perturb_rank_shift=None,
            genes_to_perturb="all",
            combos=0,
            anchor_gene=None,
            model_type="CellClassifier",
            num_classes=3,
            emb_mode="cell",
            cell_emb_style="mean_pool",
            cell_states_to_model=states,
            state_embs_dict={state: torch.tensor(vector) for state, vector in vectors.items()},
            max_ncells=2,
            emb_layer=0,
            forward_batch_size=400,
            nproc=16,
            workers=0,
            **dictionary,
        )
        out = tmp_path / name
        isp.perturb_data(str(GOLDEN / "v1/model"), str(GOLDEN / "v1/cells.dataset"), str(out), "x")
        stats = InSilicoPerturberStats(
            mode="goal_state_shift",
            genes_perturbed="all",
            combos=0,
            anchor_gene=None,
            cell_states_to_model=states,
            **dictionary,
        )
        stats.get_stats(str(out), None, str(tmp_path), name)
        files[name] = (tmp_path / f"{name}.csv").read_bytes()
    assert files["older"] == files["named"]
