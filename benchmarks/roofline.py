"""Predicts perturbations per second on GPUs from the FLOP and bytes of the pipeline, operation by operation.

    python -m benchmarks.roofline

An operation takes max(FLOP / rate, bytes / bandwidth), and a perturbed list the sum of its operations, or its share of the
time that a host needs to launch those of its batch, whichever is longer. Weights are taken to be read once a batch, a cell's
own rows to stay in the cache. It measures nothing; what a machine really does is in results.csv. Operations are those of
screen/encoder/ and kernels/, in their dtypes: products and attention in 16 bits, residual stream and LayerNorm in float32.
Launches of a batch, and bytes of a layer, are those that tests/screen/engine/test_launches.py counts.

Legend: n rows of a list, D width, F inner width, V tokens of the vocabulary, P lists of a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An encoder. `framed`: lists begin with <cls> and end with <eos>, and the <cls> row is what is measured."""

    layers: int
    width: int
    heads: int
    inner: int
    positions: int
    vocab: int
    framed: bool


SHAPES = {
    "V1-10M": Shape(layers=6, width=256, heads=4, inner=512, positions=2048, vocab=25426, framed=False),
    "V2-104M": Shape(layers=12, width=768, heads=12, inner=3072, positions=4096, vocab=20275, framed=True),
    "V2-316M": Shape(layers=18, width=1152, heads=18, inner=4608, positions=4096, vocab=20275, framed=True),
}
SKIPS = {
    "head": "MLM head",
    "unused": "layer above the one measured",
    "cls": "rows but <cls> in the last layer",
    "shared": "first-layer attention and projections that lists share",
    "copies": "perturbed ids and aligned copies (embedding and cosine kernels)",
}
SPLIT_BLOCK = 32  # lists that share keys in the first-layer kernel on a device (kernels/first_layer.py)
BATCH_ROWS = 131_072  # rows of a batch that a screen takes by default on a GPU
LAUNCHES = {  # of a batch of one cell, counted for 6 layers at the mean over genes and for 12 at <cls>
    "V1-10M": 29,
    "V2-104M": 90,
    "V2-316M": 132,  # seven more for each of its six layers
}
NARROW = 256  # dims up to which what stands behind the attention of a layer is two kernels
HOST = 5e-6  # seconds of a host for a launch, assumed


@dataclass(frozen=True, slots=True)
class Operation:
    """One pass over the rows of a list. kind: product16, product32, attention16, attention32 or memory."""

    name: str
    kind: str
    flops: float
    bytes: float


def operations(shape: Shape, n: int, *, skips: frozenset[str], half: bool, lists: int = 1) -> Iterator[Operation]:
    """What one deletion in a cell of n rows runs, `lists` to a batch. Without any skip: plain transformers."""
    d, f, row = shape.width, shape.inner, n * shape.width
    size, bits = (2, "16") if half else (4, "32")  # of what products read and write
    residual = 4 if skips else size  # transformers in 16 bits has all in 16 bits, the engine keeps sums in float32
    passes = not (half and skips)  # of torch's, which our kernels have no need of
    # torch: product added to the residual stream, then LayerNorm; kernel add_norm: both read and written, in 32 and 16 bits.
    normed = ((4 * residual + size) if passes else (2 * residual + 2 * size)) * row
    if "copies" in skips:
        yield Operation("embedding", "memory", 0, residual * row)
    else:  # ids built and read; word rows gathered, positions added, types added, LayerNorm: each read and written
        yield Operation("embedding", "memory", 0, 24 * n + residual * row * (2 + 3 + 2 + 2))
    layers = shape.layers - ("unused" in skips)
    for i in range(layers):
        if "cls" in skips and i == layers - 1:
            yield from first_rows(shape, n)
            break
        if "shared" in skips and i == 0:
            yield from shared_attention(shape, n, lists, SPLIT_BLOCK)
        else:
            yield Operation("q, k, v", "product" + bits, 6 * n * d * d, size * 4 * row)
            yield Operation("attention", "attention" + bits, 4 * n * n * d, size * 4 * row)
            if passes:
                yield Operation("heads to rows", "memory", 0, size * 2 * row)
        if not passes and d <= NARROW:  # kernel narrow_layer: residual stream read and written, 16 bits read or written
            yield Operation("output, add, LayerNorm", "product" + bits, 2 * n * d * d, 10 * row)
            yield Operation("perceptron, add, LayerNorm", "product" + bits, 4 * n * d * f, 10 * row)
            continue
        yield Operation("output", "product" + bits, 2 * n * d * d, size * 2 * row)
        yield Operation("add, LayerNorm", "memory", 0, normed)
        yield Operation("up", "product" + bits, 2 * n * d * f, size * n * (d + f))
        if passes:  # a product applies ReLU before it writes
            yield Operation("activation", "memory", 0, size * 2 * n * f)
        yield Operation("down", "product" + bits, 2 * n * d * f, size * n * (d + f))
        yield Operation("add, LayerNorm", "memory", 0, normed)
    if "head" not in skips:
        yield Operation("head", "product" + bits, 2 * n * d * d + 2 * n * d * shape.vocab, size * n * shape.vocab)
    if not shape.framed:  # of <cls> one row a list is compared: nothing to count
        # plain: one side copied in line with the other, three products read two rows, are written and summed up
        yield Operation("cosines", "memory", 0, residual * row * (1 if "copies" in skips else 2 + 3 * 4))


def first_rows(shape: Shape, n: int) -> Iterator[Operation]:
    """A last layer of which only <cls> is wanted: logits and weighted sum straight from the rows below, in float32."""
    d, f = shape.width, shape.inner
    yield Operation("<cls> logits and sum", "product32", 4 * n * d * shape.heads, 2 * 4 * n * d)
    yield Operation("<cls> products", "product32", 8 * d * d + 4 * d * f, 0)


def shared_attention(shape: Shape, n: int, lists: int, block: int) -> Iterator[Operation]:
    """First layer of a batch: Q, K, V of two variants of each token once, common keys once for `block` lists."""
    d = shape.width
    yield Operation("q, k, v, shared", "product16", 2 * 6 * n * d * d / lists, 2 * 2 * 4 * n * d / lists)
    yield Operation("attention, shared", "attention16", 4 * n * d * (n / block + block), 2 * n * d)


def screen_flops(shape: Shape, n: int, *, shared: bool, lists: int, device: str = "cuda") -> float:
    """FLOP that the engine runs for one deletion, `lists` neighbouring ones to a batch.

    On a CPU the first layer's keys are halved over a tree: each is attended to about 1 + log2(lists) times a batch
    instead of `lists` times, and the last eight split by split.
    """
    skips = set(SKIPS) - (set() if shape.framed else {"cls"}) - (set() if shared else {"shared"})
    total = sum(o.flops for o in operations(shape, n, skips=frozenset(skips), half=True, lists=lists))
    if shared and device == "cpu":
        d = shape.width
        total -= 4 * n * d * (n / SPLIT_BLOCK + SPLIT_BLOCK)
        total += 4 * n * d * min(n, n / lists + max(log2(lists / 8), 0) + 8)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Peaks of a data sheet (dense): TFLOP/s in 16 bits and in float32 without TF32, TB/s of memory."""

    product16: float
    product32: float
    memory: float


GPUS = {
    "A100 80GB SXM": Gpu(product16=312, product32=19.5, memory=2.04),
    "H100 SXM": Gpu(product16=989, product32=67, memory=3.35),
    "H200 SXM": Gpu(product16=989, product32=67, memory=4.8),
}
ACHIEVED = {  # share of the peak that well-made programs reach, assumed
    "product16": 0.65,
    "product32": 0.75,
    "attention16": 0.40,
    "attention32": 0.40,
    "memory": 0.85,
}


def rate(gpu: Gpu, kind: str) -> float:
    """Assumed FLOP/s (bytes/s for memory)."""
    peak = {"6": gpu.product16, "2": gpu.product32, "y": gpu.memory}[kind[-1]]
    return peak * 1e12 * ACHIEVED[kind]


def seconds(gpu: Gpu, some: Iterator[Operation]) -> float:
    """Predicted time of the operations of one list."""
    bandwidth = rate(gpu, "memory")
    return sum(max(o.flops / rate(gpu, o.kind) if o.flops else 0, o.bytes / bandwidth) for o in some)


def predictions(shape: Shape, n: int) -> Iterator[tuple[str, dict[str, float], float]]:
    """(way, perturbations per second by GPU, GFLOP of a list): plain transformers, the engine, and it without each skip."""
    every = frozenset(SKIPS) - (set() if shape.framed else {"cls"})
    ways: list[tuple[str, frozenset[str], bool]] = [
        ("transformers, float32", frozenset(), False),
        ("transformers, 16 bits", frozenset(), True),
        ("engine", every, True),
        *((f"engine, not skipping: {SKIPS[s]}", every - {s}, True) for s in SKIPS if s in every),
    ]
    for name, skips, half in ways:
        some = list(operations(shape, n, skips=skips, half=half, lists=max(1, BATCH_ROWS // n)))
        launched = next((LAUNCHES[m] * HOST * n / BATCH_ROWS for m, s in SHAPES.items() if s is shape and skips), 0.0)
        speeds = {g: 1 / max(seconds(gpu, iter(some)), launched) for g, gpu in GPUS.items()}
        yield name, speeds, sum(o.flops for o in some) / 1e9


def product_times(shape: Shape, gpu: Gpu) -> dict[str, tuple[float, float]]:
    """Bytes, and predicted nanoseconds, of the four products of a layer for one row of a list, by way.

    On differences (kernel difference_product) a row of x is read in float32, but in 16 bits where attention wrote it, and the
    original's x0 and y0, float32: from the cache where they fit, else from memory. Results are 16 bits for attention, else
    float32. Products in 8 bits are taken to be twice as fast as in 16.
    """
    d, f = shape.width, shape.inner
    products = [(d, 3 * d, 4, 2), (d, d, 2, 4), (d, f, 4, 4), (f, d, 4, 4)]  # in, out, bytes of x on differences, of y
    ways = {
        "float16": (1, [2.0 * (i + o) for i, o, _, _ in products]),
        "differences in 16 bits, originals in cache": (1, [float(i * x + o * y) for i, o, x, y in products]),
        "differences in 8 bits, originals in cache": (2, [float(i * x + o * y) for i, o, x, y in products]),
        "differences in 16 bits, originals from memory": (
            1,
            [i * x + o * y + 4.0 * (i + o) for i, o, x, y in products],
        ),
        "differences in 8 bits, originals from memory": (2, [i * x + o * y + 4.0 * (i + o) for i, o, x, y in products]),
    }
    flops, found = [2.0 * i * o for i, o, _, _ in products], {}
    for way, (faster, moved) in ways.items():
        each = [
            max(c / (faster * rate(gpu, "product16")), b / rate(gpu, "memory"))
            for c, b in zip(flops, moved, strict=True)
        ]
        found[way] = sum(moved), 1e9 * sum(each)
    return found


def table() -> str:
    """All predictions, headed by what they are and what they assume."""
    lines = ["PREDICTIONS, NOT MEASUREMENTS: nothing here ran on a GPU. Assumed rates (peak x share reached):"]
    for name, gpu in GPUS.items():
        of = "  ".join(
            f"{kind} {rate(gpu, kind) / 1e12:.1f} {'TB/s' if kind == 'memory' else 'TFLOP/s'}" for kind in ACHIEVED
        )
        lines.append(f"  {name:14s} {of}")
    lines.append("Perturbations per second and GPU, single deletions, full cells unless said.")
    for name, n in (("V1-10M", 600), ("V1-10M", 2048), ("V2-104M", 1024), ("V2-104M", 4096), ("V2-316M", 4096)):
        what = "<cls>" if SHAPES[name].framed else "mean over genes"
        lines.append(f"\n{name}, {n} tokens, {what:55s}" + "".join(f"{g:>16s}" for g in GPUS) + "  GFLOP a list")
        for way, per_second, gflop in predictions(SHAPES[name], n):
            lines.append(f"  {way:84s}"[:86] + "".join(f"{v:16,.0f}" for v in per_second.values()) + f"{gflop:14.1f}")
    lines.append("\nThe four products of a layer, one row of a list: bytes, and nanoseconds by GPU.")
    for name, shape in SHAPES.items():
        by_gpu = {g: product_times(shape, gpu) for g, gpu in GPUS.items()}
        for way, (moved, _) in next(iter(by_gpu.values())).items():
            times = "".join(f"{found[way][1]:16.2f}" for found in by_gpu.values())
            lines.append(f"  {name + ', ' + way:70s}{moved:16,.0f}{times}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
