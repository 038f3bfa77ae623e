"""LoRA through peft: low-rank adapters learn in place of the encoder, and are merged into it at the end.

On a CUDA GPU the encoder under them can be held in 4 bits (QLoRA, NF4 with double quantization, as published); the merge is
always into the full-precision weights, so what is written is a plain checkpoint.
"""

import shutil
import tempfile
from typing import Any

import torch

from rankshift.jobs.finetuning.models import Classifier
from rankshift.jobs.training.families.family import family_of_config
from rankshift.screen.errors import InputError
from rankshift.screen.extras import installed, need

SCALE = 2  # alpha per rank, as published (64 and 128)
DROPOUT = 0.1  # on the adapters' input, as published


def check_adapters(rank: int | None, quantize: bool) -> None:
    """Refuse what this machine or these options cannot do."""
    if quantize and rank is None:
        raise InputError("--quantize trains adapters on a 4-bit encoder: give --lora RANK (64 as published) with it")
    if rank is None:
        return
    if rank < 1:
        raise InputError(f"--lora {rank} is no rank: give at least 1")
    need("lora", "--lora")
    if quantize and not torch.cuda.is_available():
        raise InputError("--quantize needs a CUDA GPU, here is none: leave it out, --lora works on any machine")
    if quantize and not installed("bitsandbytes"):
        raise InputError(
            "--quantize needs bitsandbytes, which is not installed: pip install bitsandbytes, or leave it out"
        )


def add_adapters(model: Classifier, rank: int, frozen: int) -> Any:
    """Adapters in the layers of `model` above the `frozen` ones; only they, pooler and head learn from now on.

    The model is changed in place; the object returned is what `merge` takes.
    """
    from peft import LoraConfig, get_peft_model  # an extra: only who adapts needs it

    layers = list(range(frozen, model.config.num_hidden_layers))
    if not layers:
        raise InputError(f"--freeze {frozen} leaves no layer for --lora: freeze fewer")
    config = LoraConfig(
        r=rank,
        lora_alpha=SCALE * rank,
        lora_dropout=DROPOUT,
        target_modules=list(family_of_config(model.config).adapter_targets),
        layers_to_transform=layers,
    )
    adapted = get_peft_model(model, config)
    _let_head_learn(model)
    return adapted


def _let_head_learn(model: Classifier) -> None:
    """peft freezes everything but adapters, and a head with random weights must learn."""
    for name, parameter in model.named_parameters():
        if name.startswith(family_of_config(model.config).heads):
            parameter.requires_grad_(True)


def merge(adapted: Any) -> Classifier:
    """The plain model with the adapters added to its weights."""
    return adapted.merge_and_unload()


def quantized(model: Classifier) -> Classifier:
    """A copy of the model with its encoder in 4 bits on the GPU; head and pooler keep their precision."""
    # Extras that need a GPU: only who quantizes has them.
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(family_of_config(model.config).full_precision),
    )
    folder = tempfile.mkdtemp(prefix="rankshift-4bit-")
    try:
        model.save_pretrained(folder)
        small = type(model).from_pretrained(folder, quantization_config=config, device_map={"": 0})
    finally:
        shutil.rmtree(folder)
    return prepare_model_for_kbit_training(small, use_gradient_checkpointing=False)


def carry_over(trained: Any, plain: Any) -> None:
    """Copy what was learnt on a quantized encoder (adapters, pooler, head) into the plain one."""
    learnt = {name: value for name, value in trained.named_parameters() if value.requires_grad}
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(learnt[name])
