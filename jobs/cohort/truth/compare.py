"""A study or a run held against a table of truth: effects and calls, and what needs no model, on the same genes.

Baselines are of the screened cells' rank lists: correlation with the goal state, co-expression with what differs between the
states (both as in `rankshift stats`), and the mean rank. The numbers are made in `screen.study.validation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rankshift.jobs.cohort.folder import MANIFEST, Folder
from rankshift.screen.errors import InputError
from rankshift.screen.report.findings import Findings
from rankshift.screen.runs.layout import SIMILARITY
from rankshift.screen.runs.run import Run
from rankshift.screen.stats.coexpression import state_baselines
from rankshift.screen.stats.observations import Observations
from rankshift.screen.stats.ranks_in_cells import in_cells, single_genes
from rankshift.screen.study.validation.truth import Truth, truth_of
from rankshift.screen.study.validation.validate import Validation, validate
from rankshift.screen.study.vocabulary import Verdict

RANK, STATE, COEXPRESSION = "mean rank", "state correlation", "co-expression"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """What a study or a run says of genes [G]: effect, positive towards the goal; called: 1 towards, -1 away, 0 neither.

    baselines: by name float64 [G]. what: the place, for titles.
    """

    what: str
    gene_ids: list[str]
    symbols: list[str]
    effect: np.ndarray
    called: np.ndarray
    baselines: dict[str, np.ndarray]


def compare(
    place: Path | str,
    truth: Path | str,
    *,
    trained_on: Sequence[str] = (),
    bootstrap: int = 2000,
    seed: int = 0,
) -> tuple[Answered, Truth, Validation]:
    """Hold a study or a run against the table in a file. trained_on: genes that a model was trained on, which are left out.

    Raises InputError where the table cannot be read or no gene of it can be compared.
    """
    said = answered(Path(place))
    table = read_truth(Path(truth))
    known = truth_of(table, said.gene_ids, said.symbols, name=f"--truth {truth}")
    left_out = {name.strip().upper() for name in trained_on}
    names = enumerate(zip(said.gene_ids, said.symbols, strict=True))
    numbers = [i for i, pair in names if left_out & {str(name).upper() for name in pair}]
    found = validate(
        said.effect,
        said.called,
        known,
        baselines=said.baselines,
        trained_on=numbers,
        bootstrap=bootstrap,
        seed=seed,
    )
    return said, known, found


def answered(place: Path) -> Answered:
    """What is said of the genes of a study, or of a run that has a route."""
    return _of_study(Folder.open(place)) if (place / MANIFEST).exists() else _of_run(Run.open(place))


def read_truth(path: Path) -> pa.Table:
    """The table in a .csv, .tsv or .parquet; raises InputError where it cannot be read."""
    # start-up time: only who compares reads such files
    from pyarrow import csv

    if not path.is_file():
        raise InputError(f"--truth {path} is no file: give a .csv, .tsv or .parquet")
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".parquet"):
        raise InputError(f"--truth {path} has no known ending: give a .csv, .tsv or .parquet")
    try:
        if kind == ".parquet":
            return pq.read_table(path)
        return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter="," if kind == ".csv" else "\t"))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"--truth {path} cannot be read ({str(error).splitlines()[0]}): write it again") from error


def _of_study(folder: Folder) -> Answered:
    if not folder.verdicts.exists():
        raise InputError(f"{folder.path} has no verdicts: finish the study with --resume")
    table = pq.read_table(folder.verdicts, columns=["gene_id", "symbol", "verdict", "effect"])
    verdict = np.array(table["verdict"].to_pylist(), dtype=object)
    called = np.where(verdict == str(Verdict.TOWARDS), 1, np.where(verdict == str(Verdict.AWAY), -1, 0))
    genes = table["gene_id"].to_pylist()
    first = folder.study.arms[0]
    runs = [Run.open(place) for _, arm, place in folder.runs() if arm == first]
    return Answered(
        what=str(folder.path),
        gene_ids=genes,
        symbols=table["symbol"].to_pylist(),
        effect=table["effect"].to_numpy(zero_copy_only=False).astype(np.float64),
        called=called.astype(np.int64),
        baselines=_baselines(runs, genes),
    )


def _of_run(run: Run) -> Answered:
    if run.manifest.route is None:
        raise InputError(f"{run.path} has no states, so no effect has a direction: give a run with --start and --goal")
    found = Findings.read(run)
    genes = found.strings("gene_ids")
    effect = np.where(found.marked("enough_cells"), found.effect, np.nan)
    return Answered(
        what=str(run.path),
        gene_ids=genes,
        symbols=found.strings("symbols"),
        effect=effect,
        called=np.where(found.hit, np.sign(np.nan_to_num(found.effect)), 0).astype(np.int64),
        baselines=_baselines([run], genes),
    )


def _baselines(runs: Sequence[Run], genes: Sequence[str]) -> dict[str, np.ndarray]:
    """Means over the runs of what their cells say without a model; positive: the perturbation would move to the goal."""
    number = {gene: i for i, gene in enumerate(genes)}
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for run in runs:
        seen = Observations.read(run, [SIMILARITY])
        if not single_genes(seen):
            return {}
        at = np.array([number.get(gene, -1) for gene in seen.perturbations["gene_ids"].to_pylist()])
        rank = in_cells(run, seen, seen.values[SIMILARITY]).rank
        stood = np.bincount(seen.gene[rank > 0], minlength=len(at))
        with np.errstate(invalid="ignore"):
            mean = np.bincount(seen.gene, weights=rank, minlength=len(at)) / stood
        way = -1 if run.manifest.perturb.kind in ("delete", "inhibit") else 1  # to lose what the start has is to move
        found = {RANK: 1 / mean} | {
            name: way * (state_baselines(run, seen) or {}).get(key, np.full(len(at), np.nan))
            for name, key in ((STATE, "state_correlation"), (COEXPRESSION, "coexpression"))
        }
        for name, values in found.items():
            known = np.isfinite(values) & (at >= 0)
            total = sums.setdefault(name, np.zeros(len(genes)))
            total[at[known]] += values[known]
            counts.setdefault(name, np.zeros(len(genes)))[at[known]] += 1
    with np.errstate(invalid="ignore"):
        means = {name: total / counts[name] for name, total in sums.items()}
    return {name: values for name, values in means.items() if np.isfinite(values).any()}
