"""Genes whose effects are often made by the handling of cells and not by the state: classes with their sources, and leaks.

A class is told by the symbol, of human or mouse; a gene without a symbol is of none.
"""

import re
from collections.abc import Sequence

import numpy as np

# Class -> (pattern of symbols in capitals, source).
CLASSES = {
    "mitochondrial": (r"MT-.+", "genes of the mitochondrial genome: HGNC, group Mitochondrially encoded genes"),
    "ribosomal": (
        r"RP(L|S)(A|P\d|\d+(A|AL|B|L|L\d|X|Y\d?|-PS\d+)?)|RACK1|FAU|UBA52",
        "proteins of the cytosolic ribosome: HGNC, groups L and S ribosomal proteins; RACK1, FAU and UBA52 are among them",
    ),
    "haemoglobin": (
        r"HB(A1|A2|B|D|E1|G1|G2|M|Q1|Z)|HB(A|B|Q|Z)-.+",
        "HGNC, group Hemoglobin subunits; of mouse as in MGI",
    ),
    "immunoglobulin": (
        r"IG(H(V|D\d|J\d|A\d?$|G\d?[ABC]?P?$|M$|D$|E$)|[KL](V|J\d|C\d?)).*|JCHAIN",
        "HGNC, group Immunoglobulins; the J chain is found with them",
    ),
    "heat shock": (
        r"HSPA1A|HSPA1B|HSPA1L|HSPA5|HSPA6|HSPA8|HSPB1|HSPD1|HSPE1|HSPH1|HSP90AA1|HSP90AB1|DNAJA1|DNAJB1|DNAJB4|BAG3",
        "heat shock proteins and their partners that rise when tissue is taken apart: van den Brink and others, "
        "Nature Methods 14, 935 (2017), with HSPA1L, HSPA6, HSPD1 and HSPE1 of HGNC, group Heat shock proteins",
    ),
    "dissociation response": (
        r"FOS|FOSB|FOSL2|JUN|JUNB|JUND|ATF3|EGR1|EGR2|IER2|IER3|ZFP36|ZFP36L1|ZFP36L2|DUSP1|BTG1|BTG2|SOCS3|NR4A1|PPP1R15A|"
        r"NFKBIA|GADD45A|CSRNP1",
        "immediate early genes that rise when tissue is taken apart: van den Brink and others, Nature Methods 14, 935 (2017)",
    ),
}
_PATTERNS = {name: re.compile(pattern) for name, (pattern, _) in CLASSES.items()}

ABUNDANT = 0.3  # share of the cells of a type with the gene from which on other cells may catch its transcripts
RARE = 0.2  # of that share: what is rarer in other cells may be caught


def technical_class(symbol: str | None) -> str | None:
    """The technical class of a gene by its symbol, None where it is of none.

    >>> technical_class("MT-ND1"), technical_class("Rpl13a"), technical_class("RPS6KA1"), technical_class("IGHMBP2")
    ('mitochondrial', 'ribosomal', None, None)
    """
    text = (symbol or "").upper()
    return next((name for name, pattern in _PATTERNS.items() if pattern.fullmatch(text)), None)


def leaks(detected: np.ndarray, cells: np.ndarray, screened: np.ndarray, types: Sequence[str]) -> list[str | None]:
    """For every gene [G] the cell type from which its signal in the screened cells may have leaked, None where it may not.

    detected: int [G, T], cells of the cohort with the gene by cell type; cells: int [T], cells of the cohort by type;
    screened: int [T], those of them that were screened; types: [T] their names. A gene may leak where a type has it in
    ABUNDANT of its cells or more, and most of the screened cells with the gene are of types that have it in less than RARE
    of that share: free transcripts of lysed cells are caught with every cell, few at a time.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(cells > 0, detected / cells, 0.0)
    source = share.argmax(1)
    most = share.max(1)
    expected = share * screened
    rare = share < RARE * most[:, None]
    part = (expected * rare).sum(1)
    flagged = (most >= ABUNDANT) & (part > expected.sum(1) / 2)
    return [types[s] if f else None for s, f in zip(source.tolist(), flagged.tolist(), strict=True)]
