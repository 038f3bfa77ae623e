"""The rank-sum test over cells, against the other perturbations or against the null run."""

from rankshift.screen.stats.evidence import Evidence
from rankshift.screen.stats.measure import Column, Measure
from rankshift.screen.stats.options import Columns


def columns(evidence: Evidence) -> Columns:
    """Superiority and the p-values of it, plain and centred on the typical gene."""
    evidence.summary["typical_superiority"] = evidence.centre
    return {
        "superiority": evidence.rank_sum.superiority,
        "p_value": evidence.where_tested(evidence.rank_sum.p),
        "centred_p_value": evidence.centred_p,
        "fdr": evidence.fdr,
    }


MEASURE = Measure(
    name="rank_sum",
    sentence=(
        "fdr takes cells for independent: trust it where they are of one donor or truly independent, and use --by where they "
        "are of several donors."
    ),
    columns=(
        Column(
            name="superiority",
            unit="probability",
            meaning="that a value of this gene is above one of the others, ties counted half",
        ),
        Column(
            name="p_value",
            unit="probability",
            meaning="rank-sum test against all values of all other genes (mode null: of the null run's)",
        ),
        Column(
            name="centred_p_value",
            unit="probability",
            meaning="the same test, with the superiority of the typical gene in place of 0.5",
        ),
        Column(
            name="fdr", unit="probability", meaning="Benjamini-Hochberg of centred_p_value over genes with enough cells"
        ),
    ),
    of_run=columns,
    of_contrast=columns,
)
