"""Pretraining that goes on from a bundle's weights: its shape, its encoder and its head; nothing is drawn anew."""

from dataclasses import fields, replace

import torch
from transformers import PreTrainedModel

from rankshift.jobs.pretraining.options import Pretraining, model_config
from rankshift.jobs.training.families.family import trained_family
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.bundle.checkpoint import read_tensors
from rankshift.screen.bundle.soundness import check_values
from rankshift.screen.errors import InputError
from rankshift.screen.genes.vocabulary import Vocabulary

SHAPE = ("config", "layers", "width", "heads", "inner", "dropout", "initializer")  # these are the bundle's


def continued(options: Pretraining, bundle: Bundle) -> Pretraining:
    """The options with the shape of the bundle's model; InputError where they ask for a shape of their own."""
    for field in fields(options):
        if field.name in SHAPE and getattr(options, field.name) != field.default:
            raise InputError(
                f"{field.name} is given, and the model goes on from {bundle.path}, which has its own: give one of them"
            )
    return replace(options, config=trained_family(bundle.family).own_values(bundle.config))


def check_vocabulary(vocabulary: Vocabulary, bundle: Bundle) -> None:
    """Refuse a vocabulary that numbers genes in another way than the bundle whose weights are taken."""
    if vocabulary.tokens_sha256 != bundle.vocabulary.tokens_sha256:
        raise InputError(
            f"the vocabulary has {vocabulary.size} tokens that are not the {bundle.vocabulary.size} of {bundle.path}: "
            "give the cells in that bundle's tokens (rankshift tokenize --bundle), or train a new model"
        )


def known_model(bundle: Bundle, options: Pretraining) -> PreTrainedModel:
    """The bundle's encoder and head in float32, on the CPU. options: as `continued` gives them.

    Raises InputError for a bundle whose model names no hidden genes, as one that was fine-tuned.
    """
    family = trained_family(bundle.family)
    model = family.gene_model(model_config(options, bundle.vocabulary, bundle.input_size))
    encoder = family.encoder(model)
    encoder.load_state_dict({name: tensor.float() for name, tensor in bundle.encoder_weights().items()}, strict=False)
    here = model.state_dict(keep_vars=True)
    head = {n: t for n, t in read_tensors(bundle.path).items() if n in here and bundle.family.layer_name(n) is None}
    for name, tensor in head.items():
        if tensor.shape != here[name].shape:
            found, want = list(tensor.shape), list(here[name].shape)
            raise InputError(f"{bundle.path}: {name} is of shape {found}, not {want}: make the bundle again")
    check_values(head, bundle.path)
    with torch.no_grad():
        for name, tensor in head.items():
            here[name].copy_(tensor)
    # What is tied to another tensor, as the last product to the table of genes, is set with it and need not be stored.
    known = {id(tensor) for tensor in (*encoder.parameters(), *(here[name] for name in head))}
    lacking = [name for name, parameter in model.named_parameters() if id(parameter) not in known]
    if lacking:
        raise InputError(
            f"{bundle.path} holds no {lacking[0]}: its model names no hidden genes, as one that was fine-tuned does not; give "
            "the bundle it began with"
        )
    return model
