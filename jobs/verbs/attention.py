"""`rankshift embed --level attention`: the attention network of a token table's genes as a table of edges.

It reads, chooses, writes and reports; `rankshift.screen.embed.attention` computes the sums and the edges.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rankshift.jobs.verbs.embed import Say, chosen_cells, chosen_genes
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.embed.attention import Choice, Heads, check_size, edges, frequent, pair_sums
from rankshift.screen.embed.cell_embeddings import check_alone
from rankshift.screen.embed.embedding_file import stamped
from rankshift.screen.encoder.device import default_device
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.errors import InputError
from rankshift.screen.extras import need
from rankshift.screen.files.atomic import replacing
from rankshift.screen.files.object_store import fetched
from rankshift.screen.progress import progress

NORMALISE = ("none", "length")
MEMORY = 4.0  # GiB of sums over pairs: what a laptop has beside the model


def embed_attention(
    cells: Path,
    bundle: Path,
    out: Path,
    *,
    layer: int | str = -1,
    per_head: bool = False,
    normalise: str = "none",
    choice: Choice | None = None,
    genes: str | Sequence[str] = "all",
    where: str | None = None,
    max_cells: int | None = None,
    memory: float = MEMORY,
    dtype: str = "float32",
    say: Say = print,
) -> None:
    """Write the edges of `choice` to a .parquet (columns: docs/embeddings.md).

    layer: 0 for the attention inside the last layer, -1 for that of the one before, and so on, or "all", each by itself.
    per_head: rows for each head beside those of all together. normalise: none, or length, which multiplies the weights of
    a cell by its length over the longest the model takes. memory: GiB that the sums may take; more are refused.
    """
    need("fast", "an attention network")
    choice = choice or Choice()
    if out.suffix != ".parquet":
        raise InputError(f"--out {out} does not fit: edges go to a .parquet")
    if normalise not in NORMALISE:
        raise InputError(f"--normalise {normalise!r} is unknown: use one of {', '.join(NORMALISE)}")
    check_alone(dtype)
    opened = Bundle.open(fetched(bundle))
    last = int(opened.config["num_hidden_layers"]) - 1
    full_length = opened.input_size if normalise == "length" else None
    heads = Heads(layers=attention_layers(layer, last), per_head=per_head, full_length=full_length)
    table = chosen_cells(cells, opened, where=where, by=None, max_cells=max_cells, say=say)
    wanted = frequent(table, chosen_genes(genes, table, opened, say), choice.min_cells)
    check_size(len(wanted), len(heads.channels(opened.config["num_attention_heads"])), int(memory * 2**30))
    encoder = Encoder(opened, device=default_device(), dtype=dtype)
    with progress("cells", len(table)) as done:
        sums = pair_sums(table, encoder, heads, wanted, done=done)
    if not (np.triu(sums.together, 1) >= choice.min_cells).any():
        raise InputError(f"no two genes share {choice.min_cells} of the {len(table)} cells: lower --min-cells")
    about = {
        "level": "attention",
        "layer": str(layer),
        "weights_sha256": opened.weights_sha256,
        "dtype": dtype,
        "normalise": "none" if full_length is None else f"length/{full_length}",
        "cells": str(len(table)),
        "min_cells": str(choice.min_cells),
    }
    count = 0
    with replacing(out) as temporary:
        file = None
        try:
            for part in edges(sums, choice, opened.vocabulary, last):
                part = stamped(part, about)
                file = file or pq.ParquetWriter(temporary, part.schema, compression="zstd")
                file.write_table(part)
                count += len(part)
        finally:
            if file is not None:
                file.close()
    say(f"{out}: {count:,} edges of {len(wanted):,} genes in {len(table)} cells, layer {layer}")


def attention_layers(layer: int | str, last: int) -> tuple[int, ...]:
    """Numbers of the layers, from 0: of `layer`, counted back from the last, or all of them.

    >>> attention_layers(-1, 5), attention_layers("all", 2)
    ((4,), (0, 1, 2))
    """
    if layer == "all":
        return tuple(range(last + 1))
    if not isinstance(layer, int) or not -last <= layer <= 0:
        raise InputError(
            f"layer {layer} has no attention: the model has {last + 1} layers, give 0 (the last) down to -{last}, or all"
        )
    return (last + layer,)
