"""`MTLClassifier`: the calls of published examples, its files, and what is refused."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from transformers import BertForSequenceClassification

from rankshift.compat import Deviation, InSilicoPerturber, MTLClassifier
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.genes.token_space import VocabularyOnly
from support import GOLDEN

DICTIONARY = GOLDEN / "v1" / "token_dictionary.pkl"


@pytest.fixture
def sides(data, tmp_path) -> dict[str, str]:
    """Train, validation and test data sets, each with all classes of `disease` and `sex` and the column unique_cell_id."""
    space = VocabularyOnly.open(DICTIONARY, 64)
    cells = Cells.read(data["v1"], space)
    of = np.arange(90) // 9
    found = {}
    for name, rows in (("train", of < 6), ("val", (of >= 6) & (of < 8)), ("test", of >= 8)):
        part = cells.take(np.flatnonzero(rows))
        ids = pa.array([f"{name}{i}" for i in range(len(part))])
        obs = part.obs.append_column("unique_cell_id", ids)
        Cells(ids=part.ids, offsets=part.offsets, obs=obs, frame=part.frame).write(
            tmp_path / f"{name}.dataset", space.vocabulary
        )
        found[f"{name}_path"] = str(tmp_path / f"{name}.dataset")
    return found


def classifier(sides: dict[str, str], out: Path, **options) -> MTLClassifier:
    given = {
        "task_columns": ["disease", "sex"],
        "study_name": "mtl",
        "pretrained_path": str(GOLDEN / "v1" / "model"),
        **sides,
        "model_save_path": str(out / "model"),
        "results_dir": str(out / "results"),
        "token_dictionary_file": str(DICTIONARY),
    }
    return MTLClassifier(**{**given, **options})


@pytest.mark.slow
def test_the_published_example(sides, tmp_path):
    manual = {
        "learning_rate": 5e-3,
        "warmup_ratio": 0.01,
        "weight_decay": 0.1,
        "dropout_rate": 0.1,
        "lr_scheduler_type": "cosine",
        "use_attention_pooling": False,
        "task_weights": [1, 0.5],
        "max_layers_to_freeze": 2,
    }
    mc = classifier(
        sides,
        tmp_path,
        trials_result_path=str(tmp_path / "results" / "results.txt"),
        tensorboard_log_dir=str(tmp_path / "tb"),
        batch_size=8,
        epochs=6,
        use_manual_hyperparameters=True,
        manual_hyperparameters=manual,
        use_data_parallel=False,
        seed=42,
    )
    mc.run_manual_tuning()
    folder = tmp_path / "model" / "GeneformerMultiTask"
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["GeneformerMultiTask"]
    assert pickle.loads((tmp_path / "results" / "task_label_mappings.pkl").read_bytes()) == {
        "disease": {"dcm": 0, "hcm": 1, "nf": 2},
        "sex": {"f": 0, "m": 1},
    }
    told = pd.read_csv(tmp_path / "results" / "manual_run_val_preds.csv")
    assert len(told) == 18
    assert list(told.columns[:3]) == ["unique_cell_id", "disease_true", "disease_pred"]
    assert (tmp_path / "tb").is_dir()

    scores = mc.load_and_evaluate_test_model()
    frame = pd.read_csv(tmp_path / "results" / "test_preds.csv")
    assert frame["unique_cell_id"].tolist() == [f"test{i}" for i in range(18)]
    right = {task: (frame[f"{task}_true"] == frame[f"{task}_pred"]).mean() for task in ("disease", "sex")}
    assert {task: found["accuracy"] for task, found in scores.items()} == pytest.approx(right)
    assert right["disease"] > 0.5
    # Plain transformers gives the same probabilities, outputs of the tasks side by side.
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.classifier_dropout == 0.1
    cells = Cells.read(Path(sides["test_path"]), VocabularyOnly.open(DICTIONARY, 64))
    with torch.no_grad():
        logits = model(torch.tensor(cells.ids_of(5)[None].astype(np.int64))).logits[0]
    theirs = torch.cat([logits[:3].softmax(0), logits[3:].softmax(0)])
    names = [f"disease_probability_{c}" for c in ("dcm", "hcm", "nf")] + [f"sex_probability_{c}" for c in ("f", "m")]
    np.testing.assert_allclose(frame.loc[5, names].to_numpy(float), theirs, atol=1e-5)
    # What the model is made for: a perturbation of its embeddings.
    isp = InSilicoPerturber(
        model_type="MTLCellClassifier", emb_mode="cell", max_ncells=1, workers=0, token_dictionary_file=DICTIONARY
    )
    isp.perturb_data(str(folder), sides["test_path"], str(tmp_path / "isp"), "x")
    assert list((tmp_path / "isp").glob("*_raw.pickle"))


@pytest.mark.slow
def test_the_weights_begin_as_pretrained(sides, tmp_path):
    """With almost no learning rate the encoder of the result is the one that was given."""
    manual = {"learning_rate": 1e-12, "max_layers_to_freeze": 0}
    classifier(sides, tmp_path, use_manual_hyperparameters=True, manual_hyperparameters=manual).run_optuna_study()
    made = BertForSequenceClassification.from_pretrained(tmp_path / "model" / "GeneformerMultiTask").bert
    given = BertForSequenceClassification.from_pretrained(GOLDEN / "v1" / "model").bert
    torch.testing.assert_close(made.encoder.state_dict(), given.encoder.state_dict(), rtol=0, atol=1e-6)


REFUSED = [
    ({"task_columns": ["disease"]}, "task_columns is"),
    ({"use_wandb": True}, "use_wandb=True is not here"),
    ({"distributed_training": True}, "distributed_training=True is not here: set it False, or use `rankshift finetune"),
    ({"use_data_parallel": True}, "use_data_parallel=True is not here"),
    ({"gradient_clipping": True}, "gradient_clipping=True needs max_grad_norm"),
    (
        {"manual_hyperparameters": {"dropout": 0.1}},
        r"manual_hyperparameters\['dropout'\] is unknown: use learning_rate",
    ),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"token_dictionary_file": None}, "token_dictionary_file is None"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_that_do_not_fit(options, message, tmp_path):
    with pytest.raises(InputError, match=message) as refused:
        classifier({}, tmp_path, **options)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_calls_that_do_not_fit(sides, tmp_path):
    for options, message in (
        ({"hyperparameters": {"learning_rate": {}}}, "hyperparameters: the search draws from ranges of its own"),
        ({"max_layers_to_freeze": {"min": 1, "max": 2}}, "max_layers_to_freeze is not searched"),
    ):
        with pytest.raises(InputError, match=message):
            classifier(sides, tmp_path, **options).run_optuna_study()
    with pytest.raises(InputError, match="use_manual_hyperparameters is False"):
        classifier(sides, tmp_path).run_manual_tuning()
    by_hand = {"use_manual_hyperparameters": True}
    with pytest.raises(InputError, match="val_path is None: give its path"):
        classifier({**sides, "val_path": None}, tmp_path, **by_hand).run_manual_tuning()
    few = Cells.read(Path(sides["val_path"]), VocabularyOnly.open(DICTIONARY, 64)).take(np.arange(4))
    few.write(tmp_path / "few.dataset")
    lacking = classifier({**sides, "val_path": str(tmp_path / "few.dataset")}, tmp_path, **by_hand)
    lacking.task_columns = ["individual", "sex"]
    with pytest.raises(InputError, match=r"class .* of individual is in one of train_path and val_path only"):
        lacking.run_manual_tuning()
    assert not list((tmp_path / "model").iterdir())
    with pytest.warns(Deviation, match="use_attention_pooling: cells are read at the first row"):
        classifier(sides, tmp_path, use_attention_pooling=True)
