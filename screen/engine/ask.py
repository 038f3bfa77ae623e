"""What is asked of a screen, held against the bundle and the cells: each refusal comes before anything is computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.bundle.gene_lists import panels_of, resolve_genes, said_of
from rankshift.screen.cells.cells import CellTable
from rankshift.screen.cells.labels import label_meant
from rankshift.screen.cells.sql_names import check_names
from rankshift.screen.embed.cell_embeddings import check_level
from rankshift.screen.embed.states import read_states
from rankshift.screen.engine.options import Options
from rankshift.screen.errors import InputError
from rankshift.screen.families.family import measured_layers
from rankshift.screen.perturb.asked import asked as perturbation_asked
from rankshift.screen.perturb.perturbation import Perturb
from rankshift.screen.runs.layout import shift_column
from rankshift.screen.tokenizer.source import CellSource, cells_of, name_of, places_of

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Options that fit a bundle and a table of cells.

    table: all cells, named `source`, from the files `places`. level: cell or cls; layers: encoder layers below
    it. panels: genes by list file. states: vectors that a file gives, by name. unknown: genes named that the vocabulary lacks.
    """

    options: Options
    bundle: Bundle
    table: CellTable
    source: str
    places: tuple[str, ...]
    perturb: Perturb
    level: str
    layers: int
    panels: Mapping[str, Sequence[str]]
    states: Mapping[str, Sequence[float]]
    unknown: tuple[str, ...]


def ask(cells: CellSource, bundle: Bundle, options: Options, say: Say) -> Asked:
    """Read the cells and check that options, bundle and cells fit together; raises InputError where they do not."""
    bundle.family.check_config(bundle.config)
    layers = measured_layers(bundle.config, options.layer)
    genes, unknown = resolve_genes(options.genes, bundle)
    if unknown:
        say(said_of(unknown, bundle))
    panels = panels_of(options.genes, bundle)
    if panels and options.how != "each":
        raise InputError(
            f"{len(panels)} panels are screened gene by gene, --how {options.how} joins genes: give one file at a time"
        )
    table = cells_of(cells, bundle, below=options.refill, gene_column=options.gene_column, layer=options.counts_layer)
    for note in table.notes:
        say(note)
    options = _meant(options, table)
    level = ("cls" if table.frame.head else "cell") if options.embedding == "auto" else options.embedding
    check_level(level, table.frame)
    perturb = perturbation_asked(
        options.perturb,
        how=options.how,
        genes=genes,
        frame=table.frame,
        limit=bundle.input_size,
        anchor=None if options.anchor is None else resolve_genes([options.anchor], bundle)[0][0],  # type: ignore[index]
        rank_shift=options.rank_shift,
        to=options.to,
        reference_overflow=options.reference_overflow,
        refill=options.refill,
    )
    if options.by is not None and options.by not in table.obs.column_names:
        raise InputError(f"--by {options.by!r} is not a column: the columns are {', '.join(table.obs.column_names)}")
    return Asked(
        options=options,
        bundle=bundle,
        table=table,
        source=name_of(cells),
        places=places_of(cells),
        perturb=perturb,
        level=level,
        layers=layers,
        panels=panels,
        states=_states(bundle, options),
        unknown=tuple(unknown),
    )


def _meant(options: Options, table: CellTable) -> Options:
    """The options with states as the labels of the cells say them; refuses names that views of the run could not tell apart.

    Of a column of numbers --start 1.0 means the state 1, because a missing neighbour makes 1.0 of a 1.
    """
    fix = "tokenize again without it, or rename it"
    check_names([*table.obs.column_names, "input_ids", "length"], "columns of the cells", fix)
    if options.state_key is not None and options.state_key in table.obs.column_names:
        column = table.obs.column(options.state_key)
        start, goal = (None if state is None else label_meant(column, state) for state in (options.start, options.goal))
        others = tuple(label_meant(column, state) for state in options.alt)
        options = replace(options, start=start, goal=goal, alt=others)
    if options.route is not None:
        check_names([shift_column(state) for state in options.route], "columns of the states", "rename a state")
    return options


def _states(bundle: Bundle, options: Options) -> dict[str, list[float]]:
    if options.states is None:
        return {}
    found = read_states(options.states, bundle.config["hidden_size"], options.route)
    check_names([shift_column(state) for state in found], "columns of the states", "rename a state in the file")
    return {name: [float(x) for x in vector] for name, vector in found.items()}
