"""Verbs that make what is screened: a bundle, a vocabulary, a token table."""

from pathlib import Path
from typing import Annotated

import typer

from rankshift.jobs.cli.app import OutOption, app, say
from rankshift.screen.errors import InputError


@app.command()
def bundle(
    checkpoint: Annotated[
        str, typer.Argument(help="Folder of a Hugging Face checkpoint, or a model by name: hf://OWNER/NAME[/FOLDER].")
    ],
    vocabulary: Annotated[
        str, typer.Option(help="vocabulary.parquet, or {gene: token} as .json, .csv, .pkl or hf://….")
    ],
    out: OutOption,
    medians: Annotated[str | None, typer.Option(help="{gene: median}, for tokenizing.")] = None,
    names: Annotated[str | None, typer.Option(help="{symbol: gene}.")] = None,
    aliases: Annotated[str | None, typer.Option(help="{alias or retired id: gene}.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Checkpoint that CHECKPOINT, a LoRA adapter, was trained on; they are merged.")
    ] = None,
) -> None:
    """Tie a model and its vocabulary together in one folder."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.screen.bundle.bundle import make_bundle

    made = make_bundle(checkpoint, vocabulary, out, medians, names, aliases, base)
    c = made.config
    say(
        f"{out}: {made.generation}, {made.vocabulary.size} tokens, {c['num_hidden_layers']} layers of {c['hidden_size']}, "
        f"lists up to {made.input_size}, weights {made.weights_sha256[:12]}"
    )


@app.command()
def verify(
    place: Annotated[Path, typer.Argument(help="Folder of a run or a bundle.")],
) -> None:
    """Hold the files of a run or a bundle against the checksums that were taken when they were written."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.jobs.verbs.verify import verify as held

    held(place, say)


@app.command()
def vocabulary(
    data: Annotated[
        list[Path],
        typer.Argument(help="Counts: .h5ad, .loom, .zarr, .h5mu, 10x .h5 or mtx folder, .csv; or folders of them."),
    ],
    out: OutOption,
    generation: Annotated[str, typer.Option(help="v1 (plain lists) or v2 (framed by <cls> and <eos>).")] = "v1",
    gene_column: Annotated[str | None, typer.Option(help="var column that holds the gene ids.")] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Matrix with the counts: raw, X or a layer's name. Default: the first that may be counts."),
    ] = None,
) -> None:
    """Medians and tokens from a corpus of cells."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary

    say(str(build_vocabulary(data, out, generation=generation, gene_column=gene_column, layer=layer)))


@app.command()
def tokenize(
    data: Annotated[
        list[Path],
        typer.Argument(help="Counts: .h5ad, .loom, .zarr, .h5mu, 10x .h5 or mtx folder, .csv; or folders of them."),
    ],
    out: OutOption,
    bundle: Annotated[Path | None, typer.Option(help="Folder made by `rankshift bundle`.")] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Instead of --bundle: vocabulary.parquet of a model to pretrain.")
    ] = None,
    keep: Annotated[str, typer.Option(help="obs columns to keep, separated by commas.")] = "",
    where: Annotated[str | None, typer.Option(help="SQL condition over the obs columns.")] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Longest list, specials included. Default: the model's.")
    ] = None,
    gene_column: Annotated[str | None, typer.Option(help="var column that holds the gene ids.")] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Matrix with the counts: raw, X or a layer's name. Default: the first that may be counts."),
    ] = None,
    min_mapped: Annotated[float, typer.Option(help="Refuse below this share of known genes.")] = 0.1,
    keep_uncropped: Annotated[
        bool, typer.Option("--keep-uncropped", help="Keep the genes below the input limit, for screen --refill.")
    ] = False,
) -> None:
    """Rank lists from counts."""
    # Late: --help and a wrong option must not wait for what computes.
    from rankshift.screen.bundle.bundle import Bundle
    from rankshift.screen.genes.token_space import VocabularyOnly
    from rankshift.screen.tokenizer.tokenize import tokenize as rank

    if (bundle is None) == (vocabulary is None):
        raise InputError("tokens come from --bundle, or from --vocabulary before there is a model: give one of them")
    columns = [c.strip() for c in keep.split(",") if c.strip()]
    report = rank(
        data,
        VocabularyOnly.open(vocabulary, input_size) if vocabulary is not None else Bundle.open(bundle),  # type: ignore[arg-type]
        out,
        keep=columns,
        where=where,
        input_size=input_size,
        min_mapped=min_mapped,
        gene_column=gene_column,
        layer=layer,
        keep_uncropped=keep_uncropped,
    )
    say(str(report))
