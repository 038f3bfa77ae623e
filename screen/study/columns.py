"""Columns of the table of verdicts, with their units; `<a>` in a name stands for an arm (delete, overexpress)."""

from collections.abc import Sequence

import pyarrow as pa

from rankshift.screen.stats.measure import Column

TEXT, FLAG, COUNT = pa.string(), pa.bool_(), pa.int64()
SD = "sd of matched genes"  # standard deviations, robust, of the effects of a gene's matched controls

COLUMNS = (
    Column(name="gene_id", unit="", meaning="Ensembl id of the perturbed gene", type=TEXT),
    Column(name="symbol", unit="", meaning="its name", type=TEXT),
    Column(
        name="verdict", unit="", meaning="what the study says of the gene; docs/study.md defines the words", type=TEXT
    ),
    Column(name="why", unit="", meaning="what the verdict rests on, or what was lacking", type=TEXT),
    Column(
        name="moves_to_goal", unit="", meaning="of a found effect, the arm that moves cells towards the goal", type=TEXT
    ),
    Column(
        name="confounded", unit="yes or no", meaning="a label of the study is carried by its batches alone", type=FLAG
    ),
    Column(name="donors", unit="donors", meaning="that gave a value, in both arms where two are run", type=COUNT),
    Column(name="cells", unit="cells", meaning="of these donors in which the first arm was made", type=COUNT),
    Column(
        name="effect",
        unit=SD,
        meaning="Hodges-Lehmann centre over donors of the adjusted shift; of two arms half the first minus the second",
    ),
    Column(name="effect_low", unit=SD, meaning="lower end of its exact 95 % interval over donors"),
    Column(name="effect_high", unit=SD, meaning="upper end of it"),
    Column(name="detectable", unit=SD, meaning="size of effect that four of five such studies would have found"),
    Column(name="donor_p_value", unit="probability", meaning="exact two-sided test over donors"),
    Column(name="donor_p_floor", unit="probability", meaning="the smallest that so many donors can give"),
    Column(name="matched_p_value", unit="probability", meaning="that a matched gene has an effect as far out"),
    Column(name="p_value", unit="probability", meaning="the larger of the two"),
    Column(
        name="adjusted_p_value",
        unit="probability",
        meaning="of p_value: Holm in a list, Benjamini-Hochberg over all genes",
    ),
    Column(
        name="coherent",
        unit="yes or no",
        meaning="the arms point in opposite ways by more than those of 95 % of matched genes; empty with one arm",
        type=FLAG,
    ),
    Column(
        name="without_one_donor", unit="share", meaning="of the effect that remains without the donor it hangs on most"
    ),
    Column(
        name="without_one_fold", unit="share", meaning="of the effect that remains without the fold it hangs on most"
    ),
    Column(name="technical_class", unit="", meaning="class of genes that handling often moves", type=TEXT),
    Column(name="leaks_from", unit="", meaning="cell type from which the gene's signal may have leaked", type=TEXT),
    Column(name="<a>_effect", unit="cosine", meaning="the arm's adjusted shift towards the goal, centre over donors"),
    Column(name="<a>_low", unit="cosine", meaning="lower end of its exact 95 % interval"),
    Column(name="<a>_high", unit="cosine", meaning="upper end of it"),
    Column(name="<a>_matched_sd", unit="cosine", meaning="robust standard deviation of the matched genes' effects"),
    Column(name="<a>_donor_p_value", unit="probability", meaning="exact test over donors of the arm alone"),
    Column(name="<a>_matched_p_value", unit="probability", meaning="of the arm alone, among its matched genes"),
    Column(name="<a>_adjusted_p_value", unit="probability", meaning="of the larger of the arm's two"),
)


def schema(arms: Sequence[str]) -> pa.Schema:
    """Fields in order, `unit` and `meaning` in the metadata of each; those of arms come arm by arm."""
    plain = [c for c in COLUMNS if "<a>" not in c.name]
    of_arm = [c for c in COLUMNS if "<a>" in c.name]
    fields = [(c.name, c) for c in plain] + [(c.name.replace("<a>", arm), c) for arm in arms for c in of_arm]
    return pa.schema([pa.field(n, c.type, metadata={"unit": c.unit, "meaning": c.meaning}) for n, c in fields])
