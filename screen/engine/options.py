"""What the user asks of a screen. Options are checked against each other here, against cells and bundle in module `ask`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from rankshift.screen.embed.states import check_route
from rankshift.screen.errors import InputError, redacted
from rankshift.screen.families.operators import PRECISIONS
from rankshift.screen.files.object_store import everywhere
from rankshift.screen.files.text_file import is_file
from rankshift.screen.runs.layout import SIMILARITY, shift_column


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asks of a screen; the fields are the options of `rankshift screen`.

    genes: "all", or Ensembl ids or symbols, or files of them (module `gene_lists`); background: so many genes are drawn beside
    them, to hold them against (module `background`). states: a states.json. token_budget: rows of a batch, None for the
    device's default. `start` selects cells whose `state_key` equals it; without `states` the state vectors are computed here.
    gene_column, counts_layer: of cells given as counts, as for `tokenize`.
    """

    perturb: str
    genes: str | Sequence[str] = "all"
    how: str = "each"
    embedding: str = "auto"
    layer: int = -1
    states: Path | None = None
    state_key: str | None = None
    start: str | None = None
    goal: str | None = None
    alt: Sequence[str] = ()
    where: str | None = None
    max_cells: int | None = None
    dtype: str = "auto"
    token_budget: int | None = None
    shard_tokens: int | None = None
    reference_overflow: bool = False
    refill: bool = False
    anchor: str | None = None
    rank_shift: int | None = None
    to: float | None = None
    gene_shifts: bool = False
    by: str | None = None
    per_cell: bool = False
    gene_column: str | None = None
    counts_layer: str | None = None
    background: int | None = None

    @staticmethod
    def of(given: Mapping[str, Any]) -> "Options":
        """The options among named values, as among the arguments of a function: `Options.of(locals())`."""
        return Options(**{field.name: given[field.name] for field in fields(Options) if field.name in given})

    def __post_init__(self) -> None:
        if (self.by is not None or self.per_cell) and not self.gene_shifts:
            raise InputError("--by and --per-cell say how gene shifts are kept: add --gene-shifts")
        for name in ("max_cells", "token_budget", "shard_tokens", "background"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, at least 1 is needed: give a positive number")
        if self.background is not None and (self.genes == "all" or self.how != "each"):
            raise InputError("--background draws genes beside a list of single genes: give --genes and --how each")
        if self.dtype not in ("auto", *PRECISIONS):
            raise InputError(f"dtype {self.dtype!r} is unknown: use one of auto, {', '.join(PRECISIONS)}")
        route = (self.state_key, self.start, self.goal)
        if any(x is None for x in route) and any(x is not None for x in (*route, *self.alt)):
            raise InputError("--state-key, --start and --goal belong together: give all three")
        if self.start is not None and self.goal is not None:
            check_route(self.start, self.goal, self.alt)

    @property
    def route(self) -> list[str] | None:
        """The states from start to goal and the alternatives, None of a screen without."""
        return None if self.start is None or self.goal is None else [self.start, self.goal, *self.alt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """What an adaptive screen is asked besides: the `top` genes of strongest effect, or with `bottom` those at the other end.

    rank_by: similarity, or the state whose shift is ranked, by default the goal, without states the similarity. The strongest
    shift is the highest, the strongest similarity the lowest; `absolute`: shifts of either direction by their size.
    confidence: the share of them that is expected to be found; 0.98 costs little more than 0.95. seed: of all that is drawn.
    min_cells: genes in fewer cells are not measured, because `stats` tests none of them. strata: obs column (donor) whose
    values give every block of cells their share. fdr: finish, too, the genes that could be called at this false discovery rate.
    """

    top: int
    bottom: bool = False
    absolute: bool = False
    rank_by: str | None = None
    confidence: float = 0.98
    seed: int = 0
    min_cells: int = 10
    strata: str | None = None
    fdr: float | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"--top is {self.top}: ask for at least 1 gene")
        if not 0.5 <= self.confidence <= 0.999:
            raise InputError(f"--confidence is {self.confidence:g}, it lies between 0.5 and 0.999: 0.98 is the default")
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}: give a number of at least 0")
        if self.min_cells < 1:
            raise InputError(f"--min-cells is {self.min_cells}: give at least 1")
        if self.fdr is not None and not 0 < self.fdr <= 0.5:
            raise InputError(f"--fdr is {self.fdr:g}, it lies above 0 and goes up to 0.5: 0.05 is usual")
        if self.absolute and self.bottom:
            raise InputError("--absolute ranks both ends, --bottom one of them: leave out one of them")

    @staticmethod
    def asked(given: Mapping[str, Any]) -> "Adaptive | None":
        """What `top` and the options beside it ask for, among named values; None where none is given.

        Options that are None or False are as by default. Raises InputError on options that need `top`.
        """
        there = {name: value for name, value in given.items() if value is not None and value is not False}
        found = {field.name: there[field.name] for field in fields(Adaptive) if field.name in there}
        if "top" in found:
            return Adaptive(**found)
        for name in ("budget", *found):
            if name in there:
                raise InputError(f"--{name.replace('_', '-')} belongs to adaptive screens: add --top")
        return None

    def check(self, options: Options) -> None:
        """Refuse what an adaptive screen does not do."""
        for name in ("gene_shifts", "refill", "reference_overflow", "background"):
            if getattr(options, name):
                raise InputError(f"--{name.replace('_', '-')} and --top exclude each other: leave out one of them")
        if options.how != "each":
            raise InputError(f"--top ranks single genes, --how {options.how} joins them: leave out --top")
        known = [SIMILARITY, *(options.route or ())]
        if self.rank_by is not None and self.rank_by not in known:
            raise InputError(f"--rank-by {self.rank_by!r} is not measured: use one of {', '.join(known)}")
        if self.absolute and self.column(options) == SIMILARITY:
            raise InputError("--absolute is of shifts, a similarity has one direction: leave it out")

    def column(self, options: Options) -> str:
        """The column whose mean is ranked."""
        state = options.goal if self.rank_by is None else self.rank_by
        return SIMILARITY if state in (None, SIMILARITY) else shift_column(str(state))


def config_text(
    places: Sequence[str], source: str, bundle: Path, options: Options, adaptive: Adaptive | None = None
) -> str:
    """A .toml of what was asked of a screen, for `rankshift screen --config`: lines `option = value`, defaults left out.

    places: the files of the cells, none of cells in memory, which `source` names. Where the run was written and on how many
    workers is left out, for it changes no number.
    """
    lines = ["# rankshift screen --config screen.toml --out RUN"]
    lines += (
        [_line("cells", list(places))] if places else [f"# cells: {source}; name a file of them on the command line"]
    )
    lines.append(_line("bundle", everywhere(bundle)))
    for one in (options, adaptive):
        if one is not None:
            lines += [_line(name, value) for name, value in _given(one)]
    return "\n".join([*lines, ""])


def config_of_more(text: str, top: int | None) -> str:
    """The .toml of an adaptive screen that was asked for more genes; without `top` of the full screen."""
    of_adaptive = {f.name.replace("_", "-") for f in fields(Adaptive)} if top is None else {"top"}
    lines = [line for line in text.splitlines() if line.partition(" = ")[0] not in of_adaptive]
    return "\n".join([*lines, *([] if top is None else [_line("top", top)]), ""])


def _given(options: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(options):
        value = getattr(options, field.name)
        if field.default is MISSING or value != field.default:
            yield field.name.replace("_", "-"), _plain(field.name, value)


def _plain(name: str, value: Any) -> Any:
    """Paths from the root, so that the file can be used from anywhere; tuples as lists."""
    if isinstance(value, Path):
        return everywhere(value)
    if name == "genes":
        parts = value.split(",") if isinstance(value, str) else [str(gene) for gene in value]
        whole = [value] if isinstance(value, str) and is_file(Path(value)) else [part.strip() for part in parts]
        return [everywhere(part) if is_file(Path(part)) else part for part in whole]
    return list(value) if isinstance(value, tuple) else value


def _line(name: str, value: Any) -> str:
    """JSON of texts, numbers, yes and no, and lists of them is TOML."""
    return redacted(f"{name} = {json.dumps(value, ensure_ascii=False)}")
