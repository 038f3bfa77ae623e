"""What a run was and found, in sentences a biologist reads. Every number in them is one of the run's."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from rankshift.screen.errors import redacted
from rankshift.screen.perturb.kinds import doing
from rankshift.screen.report.findings import Findings
from rankshift.screen.runs.manifest import Manifest
from rankshift.screen.stats import measures
from rankshift.screen.stats.arithmetic.false_discovery import SIGNIFICANT
from rankshift.screen.stats.evidence import of_few
from rankshift.screen.study.technical import technical_class

NAMED = 5  # genes in a sentence
AGREES = 0.5  # rank correlation of halves below which another sample of cells would give another list


def title(findings: Findings) -> str:
    """A headline: what was done to which cells."""
    run = findings.run
    route = run.manifest.route
    way = "" if route is None else f", {route.key} {route.start} → {route.goal}"
    return f"{_doing(findings)} in {_cells(run.manifest)}{way}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _doing(findings: Findings) -> str:
    perturb = findings.run.manifest.perturb
    what = {"each": "single genes", "together": "genes together", "pairs": "pairs of genes"}[perturb.how]
    if perturb.how == "each" and len(findings) == 1:
        what = findings.strings("symbols")[0]
    return f"{doing(str(perturb.kind))} {what}"


def _cells(manifest: Manifest) -> str:
    if manifest.screened is None:
        return "cells"
    count = manifest.screened.cells.count
    return f"{count:,} cell{'s' * (count != 1)}"


def answer(findings: Findings) -> Iterator[str]:
    """The main answer, then what limits it; a sentence each."""
    tested, hits = int(findings.summary["tested"]), int(findings.summary["hits"])
    noun = _noun(findings)
    if not tested:
        yield (
            f"Nothing could be tested: no perturbation has both {findings.judging.min_cells} cells and others to be held "
            f"against. {_largest(findings)}"
        )
    elif not hits:
        yield f"No hits: none of {tested:,} tested {noun} stands out at a false discovery rate of 5 %. {_largest(findings)}"
    elif findings.goal is None:
        yield f"{hits:,} of {tested:,} tested {noun} change the cells more than others do ({_names(findings, findings.hit)})."
    else:
        up, down = findings.hit & (findings.effect > 0), findings.hit & (findings.effect <= 0)
        parts = [
            f"{int(some.sum()):,} {direction} it" + (f" ({_names(findings, some)})" if some.any() else "")
            for some, direction in ((up, "towards"), (down, "away from"))
        ]
        yield f"{hits:,} of {tested:,} tested {noun} shift the cells with respect to {findings.goal}: {', '.join(parts)}."
    yield from _interactions(findings)
    yield from _technical(findings)
    yield from _limits(findings)


def _noun(findings: Findings) -> str:
    return {"each": "genes", "together": "joint perturbations", "pairs": "pairs of genes"}[
        findings.run.manifest.perturb.how
    ]


def _names(findings: Findings, among: np.ndarray) -> str:
    symbols = findings.strings("symbols")
    rows = np.flatnonzero(among).tolist()
    return ", ".join(symbols[i] for i in rows[:NAMED]) + (", …" if len(rows) > NAMED else "")


def _largest(findings: Findings) -> str:
    """The strongest effect; a negative shift is one away from the goal."""
    cells, effect = int(findings.column("cells")[0]), float(findings.effect[0])
    what = f"The largest {findings.axis} is {effect:.3g}"
    if findings.goal is not None:
        way = "towards" if effect > 0 else "away from"
        what = f"The largest mean shift is {abs(effect):.3g} {way} {findings.goal}"
    return f"{what} ({findings.strings('symbols')[0]}, {cells:,} cell{'s' * (cells != 1)})."


def _interactions(findings: Findings) -> Iterator[str]:
    """Of a screen of pairs: how many do more than the sum of their genes, and which most."""
    if "interaction_mean" not in findings.table.column_names:
        return
    rate, size = findings.column("interaction_fdr"), np.abs(findings.column("interaction_mean"))
    tested = np.isfinite(rate)
    if not tested.any():
        yield "No interaction could be tested: every pair needs more cells, and a spread over them."
        return
    some = np.flatnonzero(rate < SIGNIFICANT)
    named = [findings.strings("symbols")[i] for i in some[np.argsort(-size[some])][:NAMED].tolist()]
    which = f" ({', '.join(named)}{', …' if len(some) > NAMED else ''})" if named else ""
    yield (
        f"{len(some):,} of {int(tested.sum()):,} tested pairs do something else than the sum of their genes alone, at a false "
        f"discovery rate of 5 %{which}."
    )


def _technical(findings: Findings) -> Iterator[str]:
    """Of the hits of a screen of single genes: those of classes that often say how cells were handled."""
    if findings.run.manifest.perturb.how != "each":
        return
    hits = np.flatnonzero(findings.hit).tolist()
    symbols = findings.strings("symbols")
    classes = Counter(found for i in hits if (found := technical_class(symbols[i])) is not None)
    if classes:
        counted = " and ".join(f"{count:,} {name}" for name, count in classes.most_common())
        yield f"Of the hits {counted} genes often tell how cells were handled, not what state they are in."


def _limits(findings: Findings) -> Iterator[str]:
    run, summary = findings.run, findings.summary
    if not run.complete:
        there, planned = len(run.committed), run.manifest.shards
        yield f"The run is not complete: {there:,} of {planned:,} shards are there, the rest is not counted."
    if of_few(run, int(summary["tested"])):
        yield (
            "The list that was screened is short and tested against itself: what is typical is not known. Screen all genes, or "
            "the list with --background 200."
        )
    for name in findings.ungrouped[:1]:
        yield (
            f"Cells count as independent here, but the column “{name}” tells groups of them apart: "
            f"a report with --by {name} counts each group once and is safer."
        )
    if findings.judging.by is not None:
        yield f"Each value of “{findings.judging.by}” counts once, whatever its number of cells."
    if summary["hits"] and findings.judging.by is None and "adjusted_fdr" in findings.table.column_names:
        left = int((findings.hit & (findings.column("adjusted_fdr") < SIGNIFICANT)).sum())
        yield (
            f"{f'{left:,}' if left else 'None'} of the {summary['hits']:,} hits remain{'s' * (left <= 1)} when each cell's own "
            "level and the trend over rank are taken out (adjusted FDR)"
            + ("." if left else ": what stands out may be the rank alone.")
        )
    if (halves := summary.get("stability")) is not None:
        agrees = halves["rank_correlation"] is not None and halves["rank_correlation"] >= AGREES
        yield (
            f"Random halves of the cells {'agree' if agrees else 'agree little'}: rank correlation "
            f"{halves['rank_correlation']:.2f}, {_percent(halves['top_overlap'])} of the top {halves['top']} in "
            f"common (chance {_percent(halves['chance'])})."
        )
    if summary.get("dropped_rows"):
        yield f"{summary['dropped_rows']:,} rows are not numbers and are left out."
    yield "What a model predicts is a hypothesis: it shows what the model learnt, not what an experiment would find."


def shown(findings: Findings) -> str:
    """What the volcano's axes are, and which p-value stands behind."""
    across = (
        f"Across: the mean shift of the cells' embedding towards {findings.goal} (to the right) or away from it."
        if findings.goal is not None
        else "Across: how much the perturbation changes the cells, as 1 − mean cosine similarity."
    )
    return f"{across} Up: how unlikely that is by chance, as −log10 of the false discovery rate in column {findings.decides}."


def method(findings: Findings) -> Iterator[str]:
    """Which test, which p-value, what makes a hit."""
    other = "the other genes" if findings.run.manifest.perturb.how == "each" else "the other perturbations"
    if findings.judging.by is None:
        yield (
            f"The rate shown (fdr) is Benjamini and Hochberg's, of a rank-sum test of a perturbation's cells against the "
            f"values of {other}, corrected for ties and centred on the typical one. It takes cells for independent."
        )
    else:
        yield (
            f"The rate shown (balanced_fdr) is Benjamini and Hochberg's, of a t test over the values of {findings.judging.by}, "
            f"each counted once, against the typical perturbation."
        )
    yield (
        f"A hit has at least {findings.judging.min_cells} cells, a rate below 5 % and a mean effect above the p99 of the "
        f"run's own numerical noise. Intervals are 95 % bootstrap percentiles. docs/stats.md has the formulas."
    )
    if (base := summary_correlations(findings)) is not None:
        yield f"Rank correlation of the size of effects with baselines that know no model: {base}."


def meanings(findings: Findings) -> Iterator[str]:
    """What every statistic of the table means and when to trust it, in its own words."""
    there = set(findings.table.column_names)
    others = findings.summary.get("alternatives") or ()
    for measure in measures.MEASURES:
        if any(name in there for column in measure.columns for name in column.named(others)):
            yield measure.sentence


def summary_correlations(findings: Findings) -> str | None:
    """The baselines beside the model, as words."""
    found = findings.summary.get("baseline_correlation") or {}
    named = {"rank": "mean rank of the gene", "detection": "share of cells that have it", "random": "a random number"}
    known = [f"{named[name]} {value:.2f}" for name, value in found.items() if value is not None]
    return ", ".join(known) or None


def facts(findings: Findings) -> dict[str, str]:
    """What was screened, as a list of terms."""
    m = findings.run.manifest
    perturb, screened = m.perturb, m.screened
    kind = f"{perturb.kind}"
    if quartiles := perturb.entries.get("rank_shift"):
        kind += f" by {quartiles} quartile{'s' * (quartiles > 1)} of rank"
    if (place := perturb.entries.get("to")) is not None:
        kind += f" to {place:g} of the ranks"
    out = {
        "Perturbation": f"{kind}, {perturb.how}",
        "Perturbations with values": f"{len(findings):,}",
        "Cells": f"{findings.summary['cells']:,}",
        "Values": f"{findings.summary['rows']:,} of {m.lists or 0:,} planned",
    }
    if m.route is not None:
        also = f"; also {', '.join(m.route.alternatives)}" if m.route.alternatives else ""
        out["States"] = f"{m.route.key}: {m.route.start} → {m.route.goal}{also}"
    elif m.states:
        out["States"] = ", ".join(m.states)
    if screened is not None and screened.cells.where:
        out["Chosen by"] = screened.cells.where
    depth = None if screened is None else {-1: "second to last", 0: "last"}.get(screened.layer)
    level = "<cls>" if m.embedding == "cls" else "mean of the genes"
    out["Embedding"] = level if depth is None else f"{level}, {depth} layer"
    if screened is not None:
        model = screened.bundle
        out["Model"] = f"{model.generation}, {model.vocab_size:,} tokens, weights {model.weights_sha256[:12]}"
    out["Measured"] = f"{m.quantity}"
    return out


def provenance(findings: Findings) -> dict[str, str]:
    """How the run was made, so that it can be made again."""
    run, m = findings.run, findings.run.manifest.screened
    shared = {
        "run": run.path.resolve().name,
        "statistics": f"seed {findings.judging.seed}, {findings.judging.bootstrap} resamples",
        "shards": f"{len(run.committed):,} of {run.manifest.shards:,}",
    }
    if m is None:
        return shared
    rows = {
        "command": m.command,
        "date": m.date,
        "run": shared["run"],
        "cells": m.cells.path,
        "cells sha256": m.cells.sha256,
        "bundle": m.bundle.path,
        "weights sha256": m.bundle.weights_sha256,
        "vocabulary sha256": m.bundle.vocabulary_sha256,
        "dtype": m.dtype,
        "seed": m.seed,
        "statistics": shared["statistics"],
        "shards": shared["shards"],
        "token budget": m.token_budget,
        **m.versions,
    }
    return {name: redacted(value) for name, value in rows.items() if value is not None}
