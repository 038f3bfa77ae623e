"""The section of the page that holds the user's gene sets against the tested genes. Nothing is drawn: a table says it."""

from collections.abc import Mapping, Sequence

import numpy as np

from rankshift.screen.errors import InputError
from rankshift.screen.report.findings import Findings
from rankshift.screen.report.sections import PlainTable, Section
from rankshift.screen.stats.arithmetic.false_discovery import SIGNIFICANT
from rankshift.screen.stats.gene_sets import FEWEST, compare_gene_sets

SHOWN = 30  # sets of the table
COLUMNS = (
    ("Gene set", "its name in the file"),
    ("Tested", "its genes that this run could test"),
    ("Hits", "hits among them, and how many chance alone would give"),
    ("FDR of hits", "hypergeometric test, Benjamini-Hochberg over the sets"),
    ("Median effect", "of its tested genes"),
    (
        "Above others",
        "chance that a gene of the set has a larger effect than another tested gene; 50 % is no difference",
    ),
    ("FDR of ranks", "Wilcoxon test of its genes against the other tested genes, Benjamini-Hochberg over the sets"),
)


def gene_sets_section(findings: Findings, sets: Mapping[str, Sequence[str]]) -> Section:
    """The section of these sets; raises InputError where the run has no single genes, or too few of the sets."""
    if findings.run.manifest.perturb.how != "each":
        raise InputError("--sets compares single genes, and this run perturbs several at once: leave it out")
    tested = np.flatnonzero(np.isfinite(findings.fdr))
    table = compare_gene_sets(
        sets,
        [findings.strings("gene_ids")[i] for i in tested],
        [findings.strings("symbols")[i] for i in tested],
        findings.effect[tested],
        findings.hit[tested],
    )
    rows = [
        (
            row["gene_set"],
            f"{row['tested']:,} of {row['genes']:,}",
            f"{row['hits']:,} ({row['hits_expected']:.1f})",
            f"{row['hits_fdr']:.2g}",
            f"{row['effect_median']:.3g}",
            f"{100 * row['superiority']:.0f} %",
            f"{row['rank_fdr']:.2g}",
        )
        for row in table.slice(0, SHOWN).to_pylist()
    ]
    stand_out = int(((table["rank_fdr"].to_numpy() < SIGNIFICANT) | (table["hits_fdr"].to_numpy() < SIGNIFICANT)).sum())
    said = (
        f"{stand_out:,} of {table.num_rows:,} gene sets stand out at a false discovery rate of 5 % among the {len(tested):,} "
        "tested genes."
    )
    if small := len(sets) - table.num_rows:
        said += f" {small:,} of which fewer than {FEWEST} genes were tested, or all of them, are left out."
    if table.num_rows > SHOWN:
        said += f" The first {SHOWN} by the test of ranks are shown."
    return Section(
        id="sets",
        nav="Gene sets",
        title="Gene sets",
        lead=[said],
        more=[
            "How to read it",
            "Two tests: are there more hits among the genes of a set than chance would give, and do its genes have larger (or "
            "smaller) effects than the other tested genes? Both take genes as independent. Genes of one pathway are not, so "
            "the rates are too small: a list to read, no proof.",
        ],
        table=PlainTable(columns=COLUMNS, rows=rows),
    )  # fmt: skip
