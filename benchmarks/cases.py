"""What is measured: the cases of a full run and of a quick one. Light to import; it measures nothing."""

from dataclasses import dataclass, replace

from benchmarks.roofline import SHAPES

# Perturbations that the engine and the stock way do in one repetition, by model and tokens of a cell: seconds each, and
# for the engine whole batches as a genome-wide screen has them, where a CPU can do that in time. A shard is an even part
# of a cell, so that the engine may do a little less.
LISTS = {
    "cpu": {
        ("V1-10M", 200): (200, 48),
        ("V1-10M", 600): (86, 12),
        ("V1-10M", 2048): (32, 4),
        ("V2-104M", 256): (19, 8),
        ("V2-104M", 1024): (9, 2),
    },
    "cuda": {
        ("V1-10M", 200): (20_000, 1024),
        ("V1-10M", 600): (12_000, 512),
        ("V1-10M", 2048): (4096, 128),
        ("V2-104M", 256): (4096, 256),
        ("V2-104M", 1024): (1024, 64),
    },
}
QUICK = {("V1-10M", 200): (32, 8), ("V2-104M", 256): (10, 2)}
DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "float16", "bfloat16")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Single perturbations of random cells of `tokens` tokens. lists, stock_lists: how many a repetition does.

    unshared: also measure without first-layer sharing. rounds, seconds: repetitions at most, and when to begin no other.
    """

    model: str
    tokens: int
    perturb: str
    dtype: str
    lists: int
    stock_lists: int
    unshared: bool
    rounds: int = 3
    seconds: float = 10.0

    def __post_init__(self) -> None:
        shape = SHAPES[self.model]
        if not 1 <= self.stock_lists <= min(self.lists, self.tokens - 1 - 2 * shape.framed):
            raise ValueError(f"{self.stock_lists} stock lists of {self.lists} in a cell of {self.tokens}: give fewer")

    @property
    def name(self) -> str:
        """As `--only` matches it."""
        return f"{self.model}-{self.tokens}-{self.perturb}-{self.dtype}"

    @property
    def embedding(self) -> str:
        """What is measured: cls where cells have one."""
        return "cls" if SHAPES[self.model].framed else "cell"

    def as_stock(self) -> "Case":
        """The case whose stock memory stands for this one: the same model and length, deletion in float32."""
        return replace(self, perturb="delete", dtype="float32", unshared=True)


def screening_cases(device: str, quick: bool) -> list[Case]:
    """Every model and length, both kinds, every dtype. Sharing is switched off for deletions only, to save time."""
    chosen = QUICK if quick else LISTS[device]
    return [
        Case(
            model=model,
            tokens=tokens,
            perturb=perturb,
            dtype=dtype,
            lists=lists,
            stock_lists=stock_lists,
            unshared=perturb == "delete",
            rounds=1 if quick else 3,
        )
        for (model, tokens), (lists, stock_lists) in chosen.items()
        for perturb in (("delete",) if quick else ("delete", "overexpress"))
        for dtype in DTYPES[device]
    ]
