"""The verb that makes a first model of a vocabulary."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rankshift.jobs.cli.app import GangOption, OutOption, app, launch, say
from rankshift.screen.errors import InputError

SHAPE = ("layers", "width", "heads", "inner", "dropout", "initializer")


@app.command()
def pretrain(
    cells: Annotated[Path, typer.Argument(help="Token table (.parquet) or .dataset folder.")],
    out: OutOption,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="vocabulary.parquet the cells were tokenized with; of a new model it must be given."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Bundle to go on from: its weights, shape and vocabulary, not random weights."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Shape and recipe of a published model: v1-10m, 12l-30m, 12l-95m, 20l-95m, v2-104m, v2-316m."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="config.json of any BERT model; tokens are those of the vocabulary.")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="Encoder layers, as all of the shape those of V1-10M. Default: 6.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Hidden size. Default: 256.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads. Default: 4.")] = None,
    inner: Annotated[int | None, typer.Option(help="Inner size of a layer. Default: 512.")] = None,
    input_size: Annotated[int | None, typer.Option(help="Positions. Default: the longest list.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Hidden and attention. Default: 0.02.")] = None,
    initializer: Annotated[float | None, typer.Option(help="Standard deviation of new weights. Default: 0.02.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Times every cell is seen. Default: 3.")] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a step over all workers, padding counted. Default: 24576.")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Passes a step is cut into, to need less memory. Default: 1.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the peak of the schedule. Default: 0.001.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="linear, cosine or constant, after the warm-up. Default: linear.")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(help="Until the peak: a share below 1, or a number of steps. Default: 0.02.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of the matrices. Default: 0.001.")] = None,
    hidden_share: Annotated[
        float | None, typer.Option(help="Share of the genes to hide and name. Default: 0.15.")
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Share of the cells that is never trained on. Default: 0.05.")
    ] = None,
    judge_every: Annotated[
        int | None, typer.Option(help="Steps between two looks at the held-out cells. Default: an epoch.")
    ] = None,
    log_every: Annotated[
        int | None, typer.Option(help="Steps a row of metrics.csv is the mean of. Default: 10.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32 or bfloat16 for matrix products. Default: auto.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is drawn. Default: 0.")] = None,
    workers: GangOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was stopped.")] = False,
) -> None:
    """Masked-gene pretraining: a bundle from a vocabulary and its cells, or from another bundle (docs/training.md)."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.pretraining.options import Pretraining, read_config
    from rankshift.jobs.pretraining.pretrain import pretrain as run_pretrain

    given: dict[str, Any] = {
        "layers": layers, "width": width, "heads": heads, "inner": inner, "input_size": input_size, "dropout": dropout,
        "initializer": initializer, "epochs": epochs, "batch_tokens": batch_tokens, "accumulate": accumulate,
        "learning_rate": learning_rate, "schedule": schedule, "warmup": warmup, "weight_decay": weight_decay,
        "hidden_share": hidden_share, "held_out": held_out, "judge_every": judge_every, "log_every": log_every,
        "dtype": dtype, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if config is not None:
        twice = [name.replace("_", "-") for name in SHAPE if name in given] + ["preset"] * (preset is not None)
        if twice:
            raise InputError(f"--config and --{twice[0]} both give the shape: use one of them")
        given["config"] = read_config(config)
    if start is not None:
        shape = {"preset": preset, "config": config, **{name: given.get(name) for name in SHAPE}}
        twice = [name.replace("_", "-") for name, value in shape.items() if value is not None]
        if twice:
            raise InputError(f"--from and --{twice[0]} both give the shape: use one of them")
    options = Pretraining.preset(preset, **given) if preset is not None else Pretraining(**given)
    run_pretrain(cells, vocabulary, out, options, start=start, resume=resume, say=say, launch=launch(workers))
