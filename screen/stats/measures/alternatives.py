"""Shifts towards the alternative states of a route, each with the test that the goal has."""

from rankshift.screen.runs.layout import SIMILARITY, shift_column
from rankshift.screen.stats.arithmetic.false_discovery import fdr
from rankshift.screen.stats.arithmetic.rank_sum import against_rest, two_sided
from rankshift.screen.stats.evidence import OneRun
from rankshift.screen.stats.measure import Column, Measure
from rankshift.screen.stats.options import Columns


def of_run(one: OneRun) -> Columns:
    """Mean and test per alternative state, and the similarity beside the shifts; nothing in a table of similarities."""
    if one.quantity != "shift":
        return {}
    out: Columns = {}
    for s in one.others:
        values = one.seen.values[shift_column(s)]
        result = against_rest(one.seen.gene, values, len(one.seen.count))
        p, centred = (one.where_tested(two_sided(result.z_around(c))) for c in (0.5, one.centre_of(result)))
        out |= {f"shift_mean_{s}": one.seen.mean(values), f"p_value_{s}": p, f"fdr_{s}": fdr(centred)}
    return {**out, "similarity_mean": one.seen.mean(one.seen.values[SIMILARITY])}


MEASURE = Measure(
    name="alternatives",
    sentence="A gene that moves cells towards an alternative state as well as towards the goal is not specific to the goal.",
    columns=(
        Column(name="shift_mean_<s>", unit="cosine", meaning="mean shift towards the alternative state"),
        Column(name="p_value_<s>", unit="probability", meaning="p_value of that shift"),
        Column(name="fdr_<s>", unit="probability", meaning="fdr of that shift, centred likewise"),
        Column(name="similarity_mean", unit="cosine", meaning="mean over cells of the cosine before and after"),
    ),
    of_run=of_run,
)
