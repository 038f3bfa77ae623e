"""Noise of few bits, as a share of the spread of what is measured: products of whole rows, and of differences to originals.

    rankshift demo --out demo --workers 0        # cells and two small bundles
    python -m benchmarks.precision demo [--folder FOLDER] [--lists 160] [--epochs 5]

Beside the demo's bundles and the toy models of tests/golden, two encoders of 6 layers and 64 dims are pretrained here on the
demo's cells, one of them with <cls>, which takes minutes; FOLDER keeps them. Truth is the engine in float32; noise is the root
mean square of what differs, spread the standard deviation over the lists of a perturbation. What the processor multiplies
natively does not enter, but for bfloat16, whose sums a processor with bfloat16 products rounds once more.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rankshift.jobs.pretraining.options import Pretraining
from rankshift.jobs.pretraining.pretrain import pretrain
from rankshift.jobs.verbs.demo import MYOBLASTS, TINY
from rankshift.screen.bundle.bundle import Bundle, make_bundle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.cell_embeddings import embed
from rankshift.screen.encoder.encoder import Encoder, one_thread
from rankshift.screen.engine.shifts import Measure, shifts_of
from rankshift.screen.families.operators import Runs
from rankshift.screen.genes.token_space import VocabularyOnly
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.perturbation import Perturb, edits_of
from rankshift.screen.tokenizer.tokenize import tokenize
from rankshift.screen.tokenizer.vocabulary_builder import build_vocabulary

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
KINDS = ("delete", "overexpress, present", "overexpress, absent")
WAYS = {  # what is printed, the engine's dtype, attention in float16 as on a GPU
    "bfloat16": ("bfloat16", False),
    "int8": ("int8", False),
    "bfloat16-delta": ("bfloat16-delta", False),
    "int8-delta": ("int8-delta", False),
    "bfloat16-delta, float16 attention": ("bfloat16-delta", True),
    "int8-delta, float16 attention": ("int8-delta", True),
}
CELLS = 4  # whose genes are perturbed
SHAPE = {"layers": 6, "width": 64, "heads": 4, "inner": 128}
GENES = 256  # of a cell of theirs at most: five epochs take minutes on two cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A bundle with cells, and the layer that is measured (how many layers run)."""

    name: str
    bundle: Bundle
    cells: Cells
    layers: int

    @property
    def levels(self) -> tuple[str, ...]:
        """What can be measured of a cell."""
        return ("cell", "cls") if self.cells.frame.head else ("cell",)


def models(demo: Path, folder: Path, epochs: int) -> Iterator[Model]:
    """The toy models, the demo's, and those pretrained here."""
    for name in ("v1", "v2"):
        root, path = GOLDEN / name, folder / f"golden-{name}"
        if not path.exists():
            make_bundle(root / "model", root / "vocabulary.json", path, medians=root / "medians.json")
        bundle = Bundle.open(path)
        yield Model(
            name=f"golden {name}",
            bundle=bundle,
            cells=Cells.read(root / "cells.parquet", bundle),
            layers=bundle.sizes.layers - 1,
        )
    for name, place in (("demo", "bundle"), ("demo, fine-tuned", "finetuned/bundle")):
        bundle = Bundle.open(demo / place)
        yield Model(
            name=name, bundle=bundle, cells=Cells.read(demo / "cells.parquet", bundle), layers=bundle.sizes.layers - 1
        )
    for generation in ("v1", "v2"):
        bundle, cells = pretrained(folder / f"six-{generation}", generation, epochs)
        yield Model(name=f"6 layers, {generation}", bundle=bundle, cells=Cells.read(cells, bundle), layers=5)


def pretrained(folder: Path, generation: str, epochs: int) -> tuple[Bundle, Path]:
    """An encoder of six layers trained on the demo's counts, and the cells; made once."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, cells, bundle = (folder / name for name in ("vocabulary.parquet", "cells.parquet", "bundle"))
    if not vocabulary.exists():
        build_vocabulary(MYOBLASTS, vocabulary, generation=generation)
    if not cells.exists():
        tokenize(MYOBLASTS, VocabularyOnly.open(vocabulary, GENES), cells, keep=["hours"])
    if not bundle.exists():
        training = {f: getattr(TINY, f) for f in ("dropout", "hidden_share", "batch_tokens", "warmup", "held_out")}
        options = Pretraining(**SHAPE, **training, epochs=epochs, initializer=0.05, learning_rate=5e-4)
        pretrain(cells, vocabulary, bundle, options, resume=True, say=lambda line: None)
    return Bundle.open(bundle), cells


def lists_of(model: Model, kind: str, count: int) -> tuple[Perturb, dict[int, np.ndarray]]:
    """A perturbation, and by cell the numbers of the lists that are measured."""
    random = np.random.default_rng(0)
    chosen = np.sort(random.choice(len(model.cells), CELLS, replace=False))
    what, _, where = kind.partition(", ")
    genes = None
    if where:
        known = np.flatnonzero(model.bundle.vocabulary.is_gene)
        present = np.unique(np.concatenate([model.cells.ids_of(c) for c in chosen.tolist()]))
        genes = np.intersect1d(known, present) if where == "present" else known
        genes = np.sort(random.choice(genes, min(len(genes), 4 * count), replace=False))
    perturb = asked(
        what, how="each", genes=None if genes is None else tuple(genes.tolist()), frame=model.cells.frame,
        limit=model.bundle.input_size,
    )  # fmt: skip
    found = {}
    for cell in chosen.tolist():
        edits = edits_of(model.cells.ids_of(cell), perturb)
        inserted = (edits.token >= 0).any(1)
        fits = np.flatnonzero(inserted if where == "absent" else ~inserted)
        found[cell] = np.sort(random.choice(fits, min(len(fits), -(-count // CELLS)), replace=False))
    return perturb, found


def states_of(model: Model, level: str, encoder: Encoder) -> np.ndarray:
    """Two state vectors [2, D]: of the cells of 0 and of 72 hours, of toy cells of either half."""
    cells = model.cells
    if "hours" in cells.obs.column_names:
        hours = np.array([str(h) for h in cells.obs["hours"].to_pylist()])
        sides = [np.flatnonzero(hours == at)[:24] for at in ("0", "72")]
    else:
        sides = np.array_split(np.arange(len(cells)), 2)
    vectors = [embed(cells.take(s), encoder, level=level, layer_count=model.layers, tokens=65_536) for s in sides]
    return np.stack([v.mean(0) for v in vectors])


def rounded_attention(encoder: Encoder) -> None:
    """Let an encoder round to float16 what its attention reads and gives, as a GPU does; sums stay float32."""

    def attention(qkv: Tensor, runs: Runs, start: Tensor, heads: int) -> Tensor:
        out, row = torch.empty(len(qkv), qkv.shape[1] // 3), 0
        for count, n in runs:
            rows = slice(row, row + count * n)
            q, k, v = qkv[rows].half().float().view(count, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
            share = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
            out[rows] = (share.half().float() @ v).half().float().transpose(1, 2).reshape(count * n, -1)
            row += count * n
        return out

    encoder.operators.attention = attention  # type: ignore[method-assign]
    encoder.share_first_layer = False  # so that the first layer is rounded as well


def shares(model: Model, level: str, kind: str, count: int) -> tuple[int, dict[str, tuple[float, float]]]:
    """Lists, and by way the noise of the similarity and of the shifts (the noisier state's) as shares of their spread."""
    perturb, some = lists_of(model, kind, count)
    exact = Encoder(model.bundle)
    measure = Measure(level=level, layers=model.layers, states=states_of(model, level, exact), tokens=65_536)

    def measured(encoder: Encoder) -> np.ndarray:
        with one_thread():
            found = shifts_of(model.cells, np.array(list(some)), encoder, perturb, measure, some)
        return found.measured.astype(np.float64)

    truth = measured(exact)
    out = {}
    for way, (dtype, rounds) in WAYS.items():
        encoder = Encoder(model.bundle, dtype=dtype)
        if rounds:
            rounded_attention(encoder)
        noise = np.sqrt(((measured(encoder) - truth) ** 2).mean(0)) / truth.std(0)
        out[way] = float(noise[0]), float(noise[1:].max())
    return len(truth), out


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder of `rankshift demo`")
    parser.add_argument("--folder", type=Path, help="keeps the models that are made here")
    parser.add_argument("--lists", type=int, default=160, help="of each perturbation")
    parser.add_argument("--epochs", type=int, default=5, help="of pretraining the 6 layers")
    parser.add_argument("--only", default="", help="models whose name holds this")
    options = parser.parse_args()
    print("| model | perturbation | measured | lists | " + " | ".join(WAYS) + " |")
    print("|---" * (4 + len(WAYS)) + "|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for model in models(options.demo, options.folder or Path(temporary), options.epochs):
            for level in model.levels if options.only in model.name else ():
                for kind in KINDS:
                    lists, found = shares(model, level, kind, options.lists)
                    cells = (f"{similarity:.3f}, {shift:.3f}" for similarity, shift in found.values())
                    print(f"| {model.name} | {kind} | {level} | {lists} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
