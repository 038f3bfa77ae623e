"""The verb that teaches a pretrained encoder labels."""

from pathlib import Path
from typing import Annotated

import typer

from rankshift.jobs.cli.app import BundleOption, GangOption, OutOption, app, launch, say


@app.command()
def finetune(
    cells: Annotated[Path, typer.Argument(help="Token table (.parquet) or .dataset folder.")],
    bundle: BundleOption,
    out: OutOption,
    task: Annotated[str, typer.Option(help="cell, gene, multitask or regression.")],
    label: Annotated[str, typer.Option(help="obs column to learn; of --task multitask several, by commas.")] = "",
    genes: Annotated[
        Path | None, typer.Option(help="Of --task gene: {class: [genes]} as .json, or gene,class as .csv.")
    ] = None,
    task_weights: Annotated[str, typer.Option(help="Weight of each label's loss, by commas. Default: equal.")] = "",
    pool: Annotated[
        str, typer.Option(help="What the head reads: cls, mean (of the genes), first, or auto: cls, else mean.")
    ] = "auto",
    where: Annotated[str | None, typer.Option(help="SQL condition over the obs columns.")] = None,
    rare: Annotated[float, typer.Option(help="Drop classes of a smaller share of the cells.")] = 0.0,
    max_cells: Annotated[int | None, typer.Option(help="Use a sample of this many cells.")] = None,
    max_cells_per_class: Annotated[int | None, typer.Option(help="Use at most so many cells of a class.")] = None,
    test: Annotated[float, typer.Option(help="Share that is held out and judges the result.")] = 0.2,
    folds: Annotated[int, typer.Option(help="Cross-validate the rest in so many folds; 0: not.")] = 0,
    split_by: Annotated[str | None, typer.Option(help="obs column (donor) whose values are never split.")] = None,
    split_column: Annotated[str | None, typer.Option(help="obs column that says train, valid or test.")] = None,
    freeze: Annotated[int, typer.Option(help="Encoder layers, from the first, that stay as they are.")] = 0,
    class_weights: Annotated[str, typer.Option(help="none, or balanced: rare classes count as much.")] = "none",
    lora: Annotated[
        int | None, typer.Option(help="Train low-rank adapters of this rank instead of the encoder.")
    ] = None,
    quantize: Annotated[
        bool, typer.Option("--quantize", help="With --lora on a CUDA GPU: hold the encoder in 4 bits.")
    ] = False,
    drop_genes: Annotated[
        float, typer.Option(help="Leave this share of a cell's genes out, others in every step; for few cells.")
    ] = 0.0,
    baseline: Annotated[bool, typer.Option("--baseline", help="Judge a linear model on ranks beside it.")] = False,
    tune: Annotated[int | None, typer.Option(help="Search settings first, with so many trials on Ray Tune.")] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Times every cell is seen, also 0.9. Default: 10, of --task gene 1.")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a step over all workers, padding counted. Default: 24576.")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Passes that a step is cut into, to save memory. Default: 1.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the peak of the schedule. Default: 5e-05.")] = None,
    schedule: Annotated[str | None, typer.Option(help="linear, cosine or constant. Default: linear.")] = None,
    warmup: Annotated[
        float | None, typer.Option(help="Share of the steps until the peak; from 1 on, steps. Default: 0.1.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of the matrices. Default: 0.001.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Default: as the encoder was pretrained.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32 or bfloat16 for matrix products. Default: auto.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is drawn. Default: 0.")] = None,
    workers: GangOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was stopped.")] = False,
) -> None:
    """Teach a pretrained encoder labels of cells or genes; the result is a bundle (docs/training.md)."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.finetuning.finetune import finetune as run_finetune
    from rankshift.jobs.finetuning.options import Finetuning, numbers

    recipe = {
        "epochs": int(epochs) if epochs is not None and epochs.is_integer() else epochs, "batch_tokens": batch_tokens,
        "accumulate": accumulate, "learning_rate": learning_rate,
        "schedule": schedule, "warmup": warmup, "weight_decay": weight_decay, "dropout": dropout, "dtype": dtype,
        "seed": seed,
    }  # fmt: skip
    options = Finetuning(
        task=task,
        label=tuple(name.strip() for name in label.split(",") if name.strip()),
        genes=genes,
        task_weights=numbers(task_weights, "--task-weights"),
        pool=pool,
        where=where,
        rare=rare,
        max_cells=max_cells,
        max_cells_per_class=max_cells_per_class,
        test=test,
        folds=folds,
        split_by=split_by,
        split_column=split_column,
        freeze=freeze,
        class_weights=class_weights,
        lora=lora,
        quantize=quantize,
        drop_genes=drop_genes,
        baseline=baseline,
        **{name: value for name, value in recipe.items() if value is not None},  # type: ignore[arg-type]
    )
    run_finetune(cells, bundle, out, options, trials=tune, resume=resume, say=say, launch=launch(workers))
