"""A verdict for every gene, as one table: from mean shifts per donor and arm, by fixed rules and in fixed words.

Rules in order: not run, not estimable, then what was found (incoherent, unstable, technical, else a call), then not found.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rankshift.screen.study.columns import schema
from rankshift.screen.study.controls import FEWEST
from rankshift.screen.study.design import Design
from rankshift.screen.study.judge import Judged, Judging, detectable, judge, single_level, stability
from rankshift.screen.study.technical import technical_class
from rankshift.screen.study.vocabulary import Verdict


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdicts:
    """table: a row per judged gene, in the columns of `columns`, found effects first. summary: what holds for all of it.

    controls: gene_id, symbol and `<arm>_effect` of the genes that the judged ones were held against (the null cloud): the
    control genes of a list, else all genes that could be judged.
    """

    table: pa.Table
    controls: pa.Table
    summary: dict[str, Any]


def verdicts(
    gene_ids: Sequence[str],
    symbols: Sequence[str],
    shift: Mapping[str, np.ndarray],
    cells: Mapping[str, np.ndarray],
    fold: np.ndarray,
    *,
    detection: np.ndarray | None = None,
    rank: np.ndarray | None = None,
    control: np.ndarray | None = None,
    other: np.ndarray | None = None,
    leaks_from: Sequence[str | None] | None = None,
    not_run: Sequence[tuple[str, str]] = (),
    confounded: bool = False,
    judging: Judging | None = None,
) -> Verdicts:
    """Judge genes [G] by their mean shift towards the goal, float64 [G, D] by arm, over cells int [G, D] by arm.

    The first arm gives the direction of a verdict; there are one or two. fold: int [D] of the donors. detection: float64 [G],
    share or number of start cells with the gene (cells of the first arm where None); rank: float64 [G], its mean place in
    them. control: bool [G], genes that are controls only. other: bool [D], donors of a second group, with which the first
    is compared (None: one group). leaks_from: [G], by `technical.leaks`. not_run: (id, symbol) of genes that were asked for
    and have no values. judging: Holm in a list and Benjamini-Hochberg over all genes where None.
    """
    arms = list(shift)
    judging = judging or Judging(family="fdr" if control is None else "holm")
    design = Design(other=other)
    first = cells[arms[0]]
    found = judge(
        shift,
        cells,
        detection=first.sum(1).astype(np.float64) if detection is None else detection,
        rank=rank,
        control=control,
        design=design,
        judging=judging,
    )
    by_donor, by_fold = stability(found, fold, design)
    size = detectable(found, design, judging)
    level = single_level(found, judging)
    judged = np.ones(len(gene_ids), bool) if control is None else ~control
    classes = [technical_class(symbol) for symbol in symbols]
    leaking: list[str | None] = [None] * len(gene_ids) if leaks_from is None else list(leaks_from)
    rows = _Rows(
        found=found, judging=judging, arms=arms, by_donor=by_donor, by_fold=by_fold, classes=classes, leaking=leaking,
        level=level, ran=np.logical_or.reduce([cells[arm].any(1) for arm in arms]),
    )  # fmt: skip
    said = [rows.verdict(gene) for gene in range(len(gene_ids))]
    valued = np.isfinite(found.joint.values)
    columns: dict[str, Any] = {
        "gene_id": list(gene_ids),
        "symbol": list(symbols),
        "verdict": [str(verdict) for verdict, _ in said],
        "why": [why for _, why in said],
        "moves_to_goal": rows.moves_to_goal(),
        "confounded": [confounded] * len(gene_ids),
        "donors": found.donors,
        "cells": np.where(valued, first, 0).sum(1),
        "effect": found.joint.effect,
        "effect_low": found.joint.low,
        "effect_high": found.joint.high,
        "detectable": np.where(np.isfinite(size), size, np.nan),
        "donor_p_value": found.joint.donor_p,
        "donor_p_floor": np.where(found.donors > 0, found.floor, np.nan),
        "matched_p_value": found.joint.cloud.p,
        "p_value": found.joint.p,
        "adjusted_p_value": found.adjusted_p,
        "coherent": [bool(c) if e else None for c, e in zip(found.coherent, found.enough, strict=True)],
        "without_one_donor": by_donor,
        "without_one_fold": by_fold,
        "technical_class": classes,
        "leaks_from": leaking,
    }
    if len(arms) == 1:
        columns["coherent"] = [None] * len(gene_ids)
    for arm, tested in found.arms.items():
        columns |= {
            f"{arm}_effect": tested.effect,
            f"{arm}_low": tested.low,
            f"{arm}_high": tested.high,
            f"{arm}_matched_sd": tested.cloud.spread,
            f"{arm}_donor_p_value": tested.donor_p,
            f"{arm}_matched_p_value": tested.cloud.p,
            f"{arm}_adjusted_p_value": found.arm_adjusted_p[arm],
        }
    fields = schema(arms)
    whole = pa.table({f.name: pa.array(columns[f.name], f.type, from_pandas=True) for f in fields}, schema=fields)
    order = np.lexsort((np.nan_to_num(found.joint.p, nan=2.0), [_PLACE[verdict] for verdict, _ in said]))
    table = whole.take(pa.array(order[judged[order]]))
    table = pa.concat_tables([table, _absent(not_run, fields, confounded)]) if not_run else table
    cloud = found.enough & (np.ones(len(judged), bool) if control is None else control)
    null = whole.select(["gene_id", "symbol", *(f"{arm}_effect" for arm in arms)]).filter(pa.array(cloud))
    return Verdicts(table=table, controls=null, summary=_summary(found, table, judging, level, confounded))


_PLACE = {verdict: i for i, verdict in enumerate(Verdict)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """What the rules look at. ran: bool [G], the gene was perturbed in some cell. level: the p that one more gene needs."""

    found: Judged
    judging: Judging
    arms: list[str]
    by_donor: np.ndarray
    by_fold: np.ndarray
    classes: list[str | None]
    leaking: list[str | None]
    level: float
    ran: np.ndarray

    def verdict(self, gene: int) -> tuple[Verdict, str]:
        found, judging = self.found, self.judging
        if not self.ran[gene]:
            return Verdict.NOT_RUN, "no screened cell has the gene"
        donors, floor = int(found.donors[gene]), float(found.floor[gene])
        if not found.enough[gene]:
            with_arms = " in both arms" if len(self.arms) > 1 else ""
            return Verdict.NOT_ESTIMABLE, (
                f"donors with {judging.min_cells} cells with the gene or more{with_arms}: {donors}, "
                f"which give no p below {floor:.2g}"
            )
        if not found.controls.count:
            return Verdict.NOT_ESTIMABLE, f"there are not {2 * FEWEST} other genes to match it with"
        if not np.isfinite(found.joint.p[gene]):
            return (
                Verdict.NOT_ESTIMABLE,
                f"fewer than {FEWEST} matched genes have values in these donors, or none of them moves",
            )
        if found.adjusted_p[gene] <= judging.level:
            return self._found(gene)
        carried = [arm for arm in self.arms if found.arm_adjusted_p[arm][gene] <= judging.level / 2]
        if len(self.arms) > 1 and carried:
            way = "opposite ways, but no more than those of matched genes" if found.opposite[gene] else "the same way"
            return (
                Verdict.INCOHERENT,
                f"{' and '.join(carried)} {'stand' if len(carried) > 1 else 'stands'} out; the arms point {way}",
            )
        if floor > self.level:
            return Verdict.NOT_ESTIMABLE, (
                f"the smallest p of {donors} donors is {floor:.2g}, among {int(found.family.sum()):,} genes "
                f"{self.level:.2g} is needed: more donors or a shorter list"
            )
        return Verdict.NOT_FOUND, f"adjusted p {found.adjusted_p[gene]:.2g}"

    def _found(self, gene: int) -> tuple[Verdict, str]:
        if not self.found.opposite[gene]:
            return Verdict.INCOHERENT, "the arms point the same way"
        for left, what in ((self.by_donor[gene], "donor"), (self.by_fold[gene], "fold")):
            if not left >= self.judging.kept:
                return Verdict.UNSTABLE, f"without one {what} {left:.0%} of the effect remains"
        if self.classes[gene] is not None:
            return Verdict.TECHNICAL, f"{self.classes[gene]} gene"
        if self.leaking[gene] is not None:
            return Verdict.TECHNICAL, f"may have leaked from {self.leaking[gene]}"
        verdict = Verdict.TOWARDS if self.found.joint.effect[gene] > 0 else Verdict.AWAY
        return verdict, f"adjusted p {self.found.adjusted_p[gene]:.2g} over {int(self.found.donors[gene])} donors"

    def moves_to_goal(self) -> list[str | None]:
        """Of what was found, the arm that moves cells to the goal; None where none or both do."""
        out: list[str | None] = []
        effects = {arm: tested.effect for arm, tested in self.found.arms.items()}
        for gene in range(len(self.ran)):
            to = [arm for arm, effect in effects.items() if effect[gene] > 0]
            called = self.found.adjusted_p[gene] <= self.judging.level and self.found.opposite[gene]
            out.append(to[0] if called and len(to) == 1 else None)
        return out


def _absent(genes: Sequence[tuple[str, str]], fields: pa.Schema, confounded: bool) -> pa.Table:
    """Rows of genes without any value."""
    rows = [
        {
            "gene_id": gene,
            "symbol": symbol,
            "verdict": str(Verdict.NOT_RUN),
            "why": "it was perturbed in no cell",
            "confounded": confounded,
            "donors": 0,
            "cells": 0,
            "technical_class": technical_class(symbol),
        }
        for gene, symbol in genes
    ]
    return pa.Table.from_pylist(rows, schema=fields)


def _summary(found: Judged, table: pa.Table, judging: Judging, level: float, confounded: bool) -> dict[str, Any]:
    counts = Counter(table["verdict"].to_pylist())
    both = np.isfinite(np.stack([arm.effect for arm in found.arms.values()])).all(0)
    return {
        **asdict(judging),
        "verdicts": {str(v): counts[str(v)] for v in Verdict},
        "genes_tested": int(found.family.sum()),
        "p_needed_by_one_gene": level,
        "smallest_p": float(found.floor.min(initial=1.0)),
        "controls_per_gene": found.controls.count,
        "arms": list(found.arms),
        "arms_correlation": found.arms_correlation,
        "opposite_signs": float(found.opposite[both].mean()) if len(found.arms) > 1 and both.any() else None,
        "coherent": int(found.coherent.sum()) if len(found.arms) > 1 else None,
        "confounded": confounded,
    }
