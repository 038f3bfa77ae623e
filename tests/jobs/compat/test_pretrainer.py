"""`GeneformerPretrainer` and the collators: the calls of published examples on a Trainer's own objects."""

import pickle

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.data import DataCollatorForTokenClassification

from rankshift.compat import (
    DataCollatorForCellClassification,
    DataCollatorForGeneClassification,
    GeneformerPretrainer,
)
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.errors import InputError
from support import GOLDEN

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def token_dictionary() -> dict[str, int]:
    return pickle.loads((GOLDEN / "v1" / "token_dictionary.pkl").read_bytes())


def model_of(tokens: dict[str, int]) -> BertForMaskedLM:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 1}
    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(
            **shape,
            hidden_act="relu",
            max_position_embeddings=32,
            pad_token_id=tokens["<pad>"],
            vocab_size=len(tokens),
            initializer_range=0.1,
        )
    ).train()


@pytest.mark.slow
def test_the_published_example(data, token_dictionary, tmp_path):
    model = model_of(token_dictionary)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training_args = {
        "learning_rate": 1e-2,
        "do_train": True,
        "do_eval": False,
        "disable_tqdm": False,
        "lr_scheduler_type": "linear",
        "warmup_steps": 3,
        "weight_decay": 0.001,
        "per_device_train_batch_size": 12,
        "num_train_epochs": 6,
        "save_strategy": "steps",
        "save_steps": np.floor(90 / 12 / 8) + 1,
        "logging_steps": 1000,
        "output_dir": str(tmp_path / "training"),
    }
    trainer = GeneformerPretrainer(
        model=model,
        args=TrainingArguments(**training_args),
        train_dataset=datasets.load_from_disk(str(data["v1"])),
        example_lengths_file=str(tmp_path / "lengths.pkl"),
        token_dictionary=token_dictionary,
    )
    done = trainer.train()
    trainer.save_model(tmp_path / "models")
    assert done.global_step == trainer.state.global_step == 6 * 8  # 89 cells of 12 tokens, 12 a step
    history = trainer.state.log_history
    assert history[-1]["loss"] < history[0]["loss"] - 0.3
    # The given model holds what was learnt, and so do both folders, for transformers and for bundles.
    stored = BertForMaskedLM.from_pretrained(tmp_path / "models").state_dict()
    now = model.state_dict()
    assert any(not torch.equal(before[name], now[name]) for name in now)
    torch.testing.assert_close(dict(now), dict(stored), rtol=0, atol=0)
    assert Bundle.open(tmp_path / "models").vocabulary.size == len(token_dictionary)
    with pytest.raises(InputError, match="holds a finished training: remove it, or give another output_dir"):
        trainer.train()


def test_what_does_not_fit(token_dictionary, tmp_path):
    good = {"model": model_of(token_dictionary), "args": {"output_dir": str(tmp_path / "x")}}
    good["token_dictionary"] = token_dictionary
    for options, message in (
        ({"eval_dataset": []}, "eval_dataset is not taken here"),
        ({"data_collator": len}, "data_collator is not taken here"),
        ({"callbacks": [1]}, "callbacks is not taken here"),
        ({"mlm": False}, "mlm=False is not here"),
        ({"token_dictionary": "token_dictionary.pkl"}, "token_dictionary is a str: give the dictionary"),
        ({"model": None}, "model is a NoneType: give a BertForMaskedLM"),
        ({"train_dataset": [1]}, "train_dataset is a list"),
        ({"args": None}, "args is None"),
        ({"args": {}}, "args names no output_dir"),
        ({"args": {"output_dir": "x", "num_train_epochs": 0.5}}, r"args\['num_train_epochs'\] is 0.5: give a whole"),
        ({"args": {"output_dir": "x", "max_steps": 5}}, r"args\['max_steps'\] is not honoured here"),
        ({"args": TrainingArguments(output_dir="x", adam_beta1=0.5)}, r"args\['adam_beta1'\] is not honoured here"),
        ({"mlm_probability": 1.5}, "hidden_share is 1.5"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            GeneformerPretrainer(**{**good, **options})
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="train_dataset is None"):
        GeneformerPretrainer(**good).train()
    assert not list(tmp_path.iterdir())


FEATURES = [{"input_ids": [5, 6, 7], "label": 1, "labels": [0, -100, 1]}, {"input_ids": [8], "label": 0, "labels": [1]}]


def test_collators_pad_as_those_of_transformers(token_dictionary):
    cells = DataCollatorForCellClassification(token_dictionary=token_dictionary)(FEATURES)
    assert cells["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert cells["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert cells["labels"].tolist() == [1, 0]
    genes = DataCollatorForGeneClassification(pad_to_multiple_of=4)(FEATURES)
    assert DataCollatorForTokenClassification.label_pad_token_id == -100
    assert genes["labels"].tolist() == [[0, -100, 1, -100], [1, -100, -100, -100]]
    assert DataCollatorForGeneClassification(padding="max_length", max_length=6)(FEATURES)["input_ids"].shape == (2, 6)
    for wrong, message in (({"padding": False}, "padding is False"), ({"padding": "max_length"}, "needs max_length")):
        with pytest.raises(InputError, match=message):
            DataCollatorForCellClassification(**wrong)
    with pytest.raises(InputError, match="3 tokens and 1 labels"):
        DataCollatorForGeneClassification()([{"input_ids": [5, 6, 7], "labels": [1]}])


@pytest.mark.slow
def test_a_trainer_of_transformers_takes_the_collator(data, tmp_path):
    """The hand-written fine-tuning of public notebooks: a Trainer, a model of transformers and the collator."""
    cells = datasets.load_from_disk(str(data["v1"]))
    ids = {"dcm": 0, "hcm": 1, "nf": 2}
    cells = cells.map(lambda one: {"label": ids[one["disease"]]}).select_columns(["input_ids", "length", "label"])
    model = BertForSequenceClassification.from_pretrained(GOLDEN / "v1" / "model", num_labels=3)
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to="none", save_strategy="no",
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=args, data_collator=DataCollatorForCellClassification(), train_dataset=cells)
    assert trainer.train().global_step == 2
