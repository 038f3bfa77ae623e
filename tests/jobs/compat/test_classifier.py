"""`Classifier`: the calls of published examples, argument for argument, and that its numbers are those of plain libraries."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score
from transformers import BertForSequenceClassification, BertForTokenClassification

from rankshift.compat import Classifier, Deviation, EmbExtractor
from rankshift.compat.training.arguments import training_args
from rankshift.compat.training.cuts import at_random, shuffled
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.genes.token_space import VocabularyOnly
from rankshift.screen.genes.vocabulary import Vocabulary, read_vocabulary
from support import GOLDEN

DONORS = [f"p{i}" for i in range(9)]  # three of each disease
FAST = {
    "num_train_epochs": 20,
    "learning_rate": 5e-3,
    "per_device_train_batch_size": 8,
    "warmup_steps": 2.6,
    "seed": 73,
}


def vocabulary(generation: str) -> Vocabulary:
    return read_vocabulary(GOLDEN / generation / "token_dictionary.pkl")


def dictionary(generation: str) -> dict[str, str]:
    return {"token_dictionary_file": str(GOLDEN / generation / "token_dictionary.pkl")}


def read(path: Path, generation: str) -> Cells:
    return Cells.read(path, VocabularyOnly.open(GOLDEN / generation / "token_dictionary.pkl", 64))


def load(path: Path):
    return pickle.loads(path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["v1", "v2"])
def test_the_published_example_of_a_cell_classifier(data, generation, tmp_path):
    """Disease of cells, split by donor: prepare, validate, evaluate on donors that were held out, draw."""
    output_dir, output_prefix = str(tmp_path), "cm_classifier_test"
    splits = {"attr_key": "individual", "train": DONORS[:2] + DONORS[3:5] + DONORS[6:8], "test": ["p2", "p5", "p8"]}
    cc = Classifier(
        classifier="cell",
        cell_state_dict={"state_key": "disease", "states": "all"},
        filter_data={"sex": ["f", "m"]},
        training_args=FAST,
        max_ncells=None,
        freeze_layers=1,
        num_crossval_splits=1,
        forward_batch_size=200,
        nproc=16,
        **dictionary(generation),
    )
    cc.prepare_data(
        input_data_file=str(data[generation]),
        output_directory=output_dir,
        output_prefix=output_prefix,
        split_id_dict=splits,
    )
    assert load(tmp_path / f"{output_prefix}_id_class_dict.pkl") == {0: "dcm", 1: "hcm", 2: "nf"}
    with pytest.warns(Deviation, match="the model of the last epoch is kept"):
        all_metrics = cc.validate(
            model_directory=str(GOLDEN / generation / "model"),
            prepared_input_data_file=f"{output_dir}/{output_prefix}_labeled_train.dataset",
            id_class_dict_file=f"{output_dir}/{output_prefix}_id_class_dict.pkl",
            output_directory=output_dir,
            output_prefix=output_prefix,
            split_id_dict={"attr_key": "individual", "train": ["p0", "p3", "p6"], "eval": ["p1", "p4", "p7"]},
            predict_eval=True,
            n_hyperopt_trials=0,
        )
    (folder,) = tmp_path.glob(f"*_geneformer_cellClassifier_{output_prefix}")
    assert len(folder.name.split("_")[0]) == 6
    assert load(folder / f"{output_prefix}_eval_metrics_dict.pkl").keys() == all_metrics.keys()
    assert all_metrics["conf_matrix"].to_numpy().sum() == 30
    assert all_metrics["all_roc_metrics"] is None  # three classes
    assert all_metrics["acc"][0] > 0.6

    tested = Classifier(
        classifier="cell",
        cell_state_dict={"state_key": "disease", "states": "all"},
        forward_batch_size=200,
        nproc=16,
        **dictionary(generation),
    )
    all_metrics_test = tested.evaluate_saved_model(
        model_directory=f"{folder}/ksplit1/",
        id_class_dict_file=f"{output_dir}/{output_prefix}_id_class_dict.pkl",
        test_data_file=f"{output_dir}/{output_prefix}_labeled_test.dataset",
        output_directory=output_dir,
        output_prefix=output_prefix,
    )
    found = load(tmp_path / f"{output_prefix}_pred_dict.pkl")
    truth, predicted = found["label_ids"], found["pred_ids"]
    assert all_metrics_test["acc"] == pytest.approx(accuracy_score(truth, predicted))
    assert all_metrics_test["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    np.testing.assert_array_equal(all_metrics_test["conf_matrix"], confusion_matrix(truth, predicted))
    # Plain transformers says the same of the same cells.
    model = BertForSequenceClassification.from_pretrained(folder / "ksplit1").eval()
    assert model.config.id2label == {0: "dcm", 1: "hcm", 2: "nf"}
    cells = read(tmp_path / f"{output_prefix}_labeled_test.dataset", generation)
    assert set(cells.obs["individual"].to_pylist()) == {"p2", "p5", "p8"}
    order = shuffled(len(cells))
    with torch.no_grad():
        for at in (0, 17):
            theirs = model(torch.tensor(cells.ids_of(int(order[at]))[None].astype(np.int64))).logits[0]
            np.testing.assert_allclose(found["predictions"][at], theirs, atol=1e-5)
            assert found["label_ids"][at] == cells.obs["label"][int(order[at])].as_py()

    cc.plot_conf_mat(
        conf_mat_dict={"Geneformer": all_metrics_test["conf_matrix"]},
        output_directory=output_dir,
        output_prefix=output_prefix,
        custom_class_order=["nf", "hcm", "dcm"],
    )
    cc.plot_predictions(
        predictions_file=f"{output_dir}/{output_prefix}_pred_dict.pkl",
        id_class_dict_file=f"{output_dir}/{output_prefix}_id_class_dict.pkl",
        title="disease",
        output_directory=output_dir,
        output_prefix=output_prefix,
        custom_class_order=["nf", "hcm", "dcm"],
    )
    for end in ("conf_mat", "pred"):
        assert (tmp_path / f"{output_prefix}_{end}.pdf").read_bytes().startswith(b"%PDF")
    # The next step of the example: embeddings of the fine-tuned model.
    mode = {"v1": "cell", "v2": "cls"}[generation]
    embex = EmbExtractor(
        model_type="CellClassifier", num_classes=3, emb_mode=mode, max_ncells=5, **dictionary(generation)
    )
    assert len(embex.extract_embs(str(folder / "ksplit1"), str(data[generation]), output_dir, "embs")) == 5


@pytest.mark.slow
def test_the_published_example_of_a_gene_classifier(data, tmp_path):
    """Two classes of genes in five folds, without cells of their own, then a model of all of them."""
    table = vocabulary("v1")
    ids = [table.ensembl_id[t] for t in np.flatnonzero(table.is_gene)[:30]]
    cc = Classifier(
        classifier="gene",
        gene_class_dict={"Dosage-sensitive TFs": ids[:10], "Dosage-insensitive TFs": [*ids[10:], "ENSG00000000000"]},
        max_ncells=60,
        freeze_layers=1,
        num_crossval_splits=5,
        forward_batch_size=200,
        nproc=15,
        training_args={"learning_rate": 1e-3},
        **dictionary("v1"),
    )
    where, prefix = str(tmp_path), "tf_dosage_sens_test"
    cc.prepare_data(input_data_file=str(data["v1"]), output_directory=where, output_prefix=prefix)
    files = {
        "model_directory": str(GOLDEN / "v1" / "model"),
        "prepared_input_data_file": f"{where}/{prefix}_labeled.dataset",
        "id_class_dict_file": f"{where}/{prefix}_id_class_dict.pkl",
    }
    all_metrics = cc.validate(**files, output_directory=where, output_prefix=prefix)
    assert [len(all_metrics[name]) for name in ("macro_f1", "acc")] == [5, 5]
    roc = all_metrics["all_roc_metrics"]
    folders = sorted(tmp_path.glob("*_geneformer_geneClassifier_*/ksplit*"))
    assert [folder.name for folder in folders] == [f"ksplit{k}" for k in range(1, 6)]
    kept = [load(folder / f"{prefix}_pred_dict.pkl") for folder in folders]
    areas = [roc_auc_score(k["label_ids"], torch.tensor(k["predictions"]).softmax(1)[:, 1]) for k in kept]
    np.testing.assert_allclose(roc["all_roc_auc"], areas, atol=1e-9)
    assert all_metrics["conf_matrix"].to_numpy().sum() == sum(len(k["label_ids"]) for k in kept)
    # Every place of every labelled gene is judged once over the five folds, in the sample of 60 cells.
    assert list(all_metrics["conf_matrix"].index) == ["Dosage-insensitive TFs", "Dosage-sensitive TFs"]
    assert BertForTokenClassification.from_pretrained(folders[0]).config.num_labels == 2
    cc.plot_conf_mat(
        {"Geneformer": all_metrics["conf_matrix"]}, where, prefix, ["Dosage-sensitive TFs", "Dosage-insensitive TFs"]
    )
    cc.plot_roc({"Geneformer": roc}, {"Geneformer": {"color": "red", "linestyle": "-"}}, "TFs", where, prefix)
    assert (tmp_path / f"{prefix}_roc.pdf").stat().st_size > 1000
    trained = cc.train_all_data(**files, output_directory=where, output_prefix=f"{prefix}_all")
    tested = cc.evaluate_saved_model(trained.directory, files["id_class_dict_file"], data["v1"], where, "all")
    assert tested["conf_matrix"].to_numpy().sum() == 90 * 9  # nine labelled places in each cell


def test_random_splits_are_those_of_datasets():
    datasets = pytest.importorskip("datasets")
    held = datasets.Dataset.from_dict({"i": list(range(97))})
    assert held.shuffle(seed=42)["i"] == shuffled(97).tolist()
    cut = held.train_test_split(test_size=0.1, seed=42)
    train, test = at_random(97, 0.1)
    assert (cut["train"]["i"], cut["test"]["i"]) == (train.tolist(), test.tolist())


def cell(generation: str = "v1", **options) -> Classifier:
    given = {"classifier": "cell", "cell_state_dict": {"state_key": "disease", "states": "all"}}
    return Classifier(**{**given, **dictionary(generation), **options})


def test_shares_caps_and_strata(data, tmp_path):
    cell(max_ncells=60).prepare_data(data["v1"], tmp_path, "a")
    sides = [read(tmp_path / f"a_labeled_{side}.dataset", "v1") for side in ("train", "test")]
    assert [len(side) for side in sides] == [54, 6]
    names = load(tmp_path / "a_id_class_dict.pkl")
    whole = read(data["v1"], "v1").obs
    of = dict(zip(whole["cell_id"].to_pylist(), whole["disease"].to_pylist(), strict=True))
    for side in sides:
        ids, labels = side.obs["cell_id"].to_pylist(), side.obs["label"].to_pylist()
        assert [names[label] for label in labels] == [of[i] for i in ids]
        assert "disease" not in side.obs.column_names
    chosen = {"state_key": "disease", "states": ["nf", "dcm"]}
    cell(cell_state_dict=chosen, max_ncells_per_class=7).prepare_data(data["v1"], tmp_path, "b", test_size=0)
    whole = read(tmp_path / "b_labeled.dataset", "v1")
    assert np.bincount(whole.obs["label"].to_numpy()).tolist() == [7, 7]
    cell(stratify_splits_col="individual").prepare_data(data["v1"], tmp_path, "c", test_size=0.2)
    donors = read(tmp_path / "c_labeled_test.dataset", "v1").obs["individual"].to_pylist()
    assert sorted(donors) == sorted(DONORS * 2)
    rare = {"filter_data": {"individual": DONORS[2:]}, "rare_threshold": 0.2}  # of nf one donor of seven is left
    cell(**rare).prepare_data(data["v1"], tmp_path, "d")
    assert load(tmp_path / "d_id_class_dict.pkl") == {0: "dcm", 1: "hcm"}


def test_donors_are_split_whole_and_balanced(data, tmp_path):
    cell().prepare_data(
        data["v1"],
        tmp_path,
        "x",
        test_size=0.34,
        attr_to_split="individual",
        attr_to_balance=["age", "sex"],
        max_trials=20,
    )
    sides = [read(tmp_path / f"x_labeled_{side}.dataset", "v1").obs for side in ("train", "test")]
    donors = [set(side["individual"].to_pylist()) for side in sides]
    assert donors[0] | donors[1] == set(DONORS)
    assert not donors[0] & donors[1]
    assert len(donors[1]) == 3
    assert set(sides[1]["label"].to_pylist()) == {0, 1, 2}
    trials = pd.read_csv(tmp_path / "x_train_test_balance_df.csv", index_col=0)
    assert list(trials.columns) == ["trial", "individual", "age", "sex", "mean"]
    passed = (trials[["age", "sex"]] >= 0.1).all(axis=1)
    assert passed.iloc[-1] or len(trials) == 20
    assert not passed.iloc[:-1].any()


REFUSED = [
    ({"classifier": "spot"}, "classifier is 'spot': use one of 'cell', 'gene'"),
    ({"num_crossval_splits": 3}, "num_crossval_splits is 3: use one of 0, 1, 5"),
    ({"quantize": {"peft_config": None}}, "quantize is a dictionary: give True"),
    ({"ray_config": {}}, "ray_config is for searches"),
    ({"split_sizes": {"train": 0.5, "valid": 0.1, "test": 0.1}}, "split_sizes add up to 0.7"),
    ({"cell_state_dict": {"state_key": "disease", "states": "nf"}}, r"cell_state_dict\['states'\] is 'nf'"),
    ({"cell_state_dict": None}, "cell_state_dict is None: give"),
    ({"gene_class_dict": {"a": [], "b": []}}, "gene_class_dict is of classifier='gene'"),
    ({"rare_threshold": 5}, "rare_threshold is 5: give a share"),
    ({"freeze_layers": -1}, "freeze_layers is -1"),
    ({"model_version": "V2"}, "model_version is V2, the token dictionary is of V1"),
    ({"token_dictionary_file": None}, "token_dictionary_file is None"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message) as refused:
        cell(**options)
    assert "\n" not in str(refused.value)


def test_calls_that_do_not_fit(data, tmp_path):
    with pytest.raises(InputError, match="split_id_dict lacks 'test'"):
        cell().prepare_data(data["v1"], tmp_path, "x", split_id_dict={"attr_key": "individual", "train": ["p1"]})
    both = {"attr_key": "individual", "train": ["p1"], "test": ["p1"]}
    with pytest.raises(InputError, match="'p1' is in train and in test"):
        cell().prepare_data(data["v1"], tmp_path, "x", split_id_dict=both)
    assert not list(tmp_path.iterdir())
    cell().prepare_data(data["v1"], tmp_path, "x", test_size=0)
    files = GOLDEN / "v1/model", tmp_path / "x_labeled.dataset", tmp_path / "x_id_class_dict.pkl", tmp_path, "x"
    for options, call, message in (
        ({}, {"n_hyperopt_trials": 9}, "n_hyperopt_trials is 9: leave it out; `rankshift finetune --tune 9`"),
        ({}, {"gene_balance": True}, "gene_balance=True is not here"),
        ({"num_crossval_splits": 0}, {}, "num_crossval_splits is 0"),
        ({"num_crossval_splits": 5}, {"attr_to_split": "individual"}, "num_crossval_splits is 5: set it to 1"),
        ({"freeze_layers": 4}, {}, "freeze_layers is 4, the model has 3 layers"),
        ({"training_args": {"learning_rat": 1}}, {}, r"training_args\['learning_rat'\] is not honoured here"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            cell(**options).validate(*files, **call)
        assert "\n" not in str(refused.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x_id_class_dict.pkl", "x_labeled.dataset"]
    with pytest.raises(
        InputError,
        match=r"v1/model holds no bert\.pooler\.dense\.weight: give the folder of a fine-tuned cell classifier",
    ):
        cell().evaluate_saved_model(files[0], files[2], files[1], tmp_path, "x")


def test_training_arguments_in_our_words():
    warm = training_args(
        {"num_train_epochs": 0.9, "warmup_steps": 1812, "lr_scheduler_type": "polynomial"}, "training_args"
    )
    assert (warm.epochs, warm.recipe["warmup"], warm.recipe["schedule"]) == (0.9, 1812, "linear")
    plain = training_args({}, "training_args")
    assert (plain.epochs, plain.cells, plain.recipe["learning_rate"], plain.recipe["warmup"]) == (3, 8, 5e-5, 0)
    many = training_args(
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "bf16": True}, "training_args"
    )
    assert (many.step_cells, many.recipe["accumulate"], many.recipe["dtype"]) == (12, 3, "bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training_args({"logging_steps": 7, "report_to": "none", "load_best_model_at_end": False}, "training_args")
    with pytest.warns(Deviation, match="report_to"):
        training_args({"report_to": "wandb"}, "training_args")
    for wrong in ({"seed": 1.5}, {"learning_rate": "fast"}, {"num_train_epochs": 0}, {"optim": "adafactor"}):
        with pytest.raises(InputError, match=r"training_args\["):
            training_args(wrong, "training_args")


def test_fp16_is_computed_in_bfloat16_and_said():
    with pytest.warns(Deviation, match="computed in bfloat16"):
        taken = training_args({"fp16": True}, "training_args")
    assert taken.recipe["dtype"] == "bfloat16"
    assert training_args({}, "training_args").recipe["dtype"] == "float32"
