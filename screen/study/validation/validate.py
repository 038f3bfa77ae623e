"""What the wet lab says beside what the screen says: how well its ranking and its calls agree with a table of truth.

The same is computed for baselines on the same genes, and the difference to the best of them is paired. Genes that a model
was trained on are left out and counted.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import beta, spearmanr

from rankshift.screen.errors import InputError
from rankshift.screen.study.validation.ranking import areas, hits_in_top, mean_reciprocal_rank
from rankshift.screen.study.validation.truth import Truth

OWN, CHANCE = "screen", "chance"
TOPS = (10, 20, 50, 100)
LEVEL = 0.05
NUMBER = pa.float64()

# name, type, unit, meaning; `<k>` stands for a size of TOPS
COLUMNS: tuple[tuple[str, pa.DataType, str, str], ...] = (
    ("direction", pa.string(), "", "which hits are looked for: either, towards or away from the goal"),
    ("method", pa.string(), "", "screen, or a baseline"),
    ("genes", pa.int64(), "genes", "that the truth knows and every method has a value of"),
    ("hits", pa.int64(), "genes", "of these that are hits of this direction"),
    ("auroc", NUMBER, "probability", "that a hit is ranked before another gene, ties counted half"),
    ("auroc_low", NUMBER, "probability", "lower end of its 95 % bootstrap interval over genes"),
    ("auroc_high", NUMBER, "probability", "upper end of it"),
    ("auprc", NUMBER, "precision", "average precision: the area under precision by recall"),
    ("auprc_low", NUMBER, "precision", "lower end of its 95 % bootstrap interval over genes"),
    ("auprc_high", NUMBER, "precision", "upper end of it"),
    ("hits_in_top_<k>", NUMBER, "genes", "hits among the <k> genes ranked first, ties broken by chance"),
    ("mean_reciprocal_rank", NUMBER, "", "mean over hits of 1 / rank"),
    ("auroc_ahead", NUMBER, "probability", "auroc of the screen minus this method's"),
    ("auroc_ahead_low", NUMBER, "probability", "lower end of its 95 % interval, both on the same resampled genes"),
    ("auroc_ahead_high", NUMBER, "probability", "upper end of it"),
    ("auprc_ahead", NUMBER, "precision", "auprc of the screen minus this method's"),
    ("auprc_ahead_low", NUMBER, "precision", "lower end of its 95 % interval, both on the same resampled genes"),
    ("auprc_ahead_high", NUMBER, "precision", "upper end of it"),
    ("best_baseline", pa.bool_(), "yes or no", "the baseline of the highest auroc"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of genes with its exact 95 % interval (Clopper and Pearson, 1934); None where `of` is 0."""

    count: int
    of: int
    value: float | None
    low: float | None
    high: float | None

    @staticmethod
    def among(count: int, of: int) -> "Share":
        """The share `count` of `of`."""
        if not of:
            return Share(count=count, of=of, value=None, low=None, high=None)
        low = float(beta.ppf(LEVEL / 2, count, of - count + 1)) if count else 0.0
        high = float(beta.isf(LEVEL / 2, count + 1, of - count)) if count < of else 1.0
        return Share(count=count, of=of, value=count / of, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtVerdict:
    """Calls against truth: of hits called (sensitivity), of others not called (specificity), of called genes that are hits

    (positive predictive value), of genes not called that are none (negative). A call in the wrong direction is no right one.
    """

    sensitivity: Share
    specificity: Share
    positive_predictive_value: Share
    negative_predictive_value: Share


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validation:
    """table: a row per direction and method, in COLUMNS. at_verdict: by direction.

    counts: genes of the study; of the truth; of these not in the study (unmatched), trained_on and without_value, which are
    left out; compared. rank_correlation: Spearman of the effect and the truth's score, where it has scores.
    """

    table: pa.Table
    at_verdict: dict[str, AtVerdict]
    counts: dict[str, int]
    rank_correlation: float | None

    def lines(self) -> Iterator[str]:
        """The comparison in words."""
        counts = self.counts
        yield (
            f"genes             {counts['compared']:,} compared; {counts['unmatched']:,} of the truth are not in the study, "
            f"{counts['trained_on']:,} were trained on and left out, {counts['without_value']:,} have no value"
        )
        for row in self.table.to_pylist():
            ahead = ""
            if row["best_baseline"]:
                ahead = f"; the best baseline, {_measured(row, 'auroc_ahead', '+.3f')} to the screen's lead"
            yield (
                f"{row['direction']:8s} {row['method']:20s} AUROC {_measured(row, 'auroc')}, AUPRC {_measured(row, 'auprc')}"
                f"{ahead}"
            )
        for direction, found in self.at_verdict.items():
            said = ", ".join(
                f"{name} {_share(share)}"
                for name, share in (
                    ("sensitivity", found.sensitivity),
                    ("specificity", found.specificity),
                    ("PPV", found.positive_predictive_value),
                    ("NPV", found.negative_predictive_value),
                )
            )
            yield f"{direction:8s} at the verdict: {said}"


def _measured(row: dict[str, Any], name: str, form: str = ".3f") -> str:
    """A value with its interval, where resamples have given one."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:{form}}" + ("" if low is None else f" ({low:{form}} to {high:{form}})")


def validate(
    effect: np.ndarray,
    called: np.ndarray,
    truth: Truth,
    *,
    strength: np.ndarray | None = None,
    baselines: Mapping[str, np.ndarray] | None = None,
    trained_on: Collection[int] = (),
    tops: Sequence[int] = TOPS,
    bootstrap: int = 2000,
    seed: int = 0,
) -> Validation:
    """Hold effects float64 [G] (positive: towards the goal) and calls int [G] (1 towards, -1 away, 0 none) against the truth.

    Genes without an effect (NaN) are left out. strength: float64 [G], by which genes are ranked, the size of the effect where
    None; for one direction it has the sign of the effect. baselines: by name float64 [G], higher is stronger; of one that
    has values of both signs, the sign is the direction, as that of the effect; where it has no value it ranks the gene
    last. trained_on: numbers of genes that a model was trained on. tops: sizes of lists, those above the number of genes
    are left out. bootstrap: resamples of hits and of other genes, each among themselves.
    Raises InputError where no gene is left, or all or none of those left are hits.
    """
    strength = np.abs(effect) if strength is None else strength
    given = baselines or {}
    learnt = np.zeros(len(effect), bool)
    learnt[list(trained_on)] = True
    there = np.isfinite(effect) & np.isfinite(strength)
    used = truth.known & ~learnt & there
    counts = {
        "genes": len(effect),
        "truth": int(truth.known.sum()) + len(truth.unmatched),
        "unmatched": len(truth.unmatched),
        "trained_on": int((truth.known & learnt).sum()),
        "without_value": int((truth.known & ~learnt & ~there).sum()),
        "compared": int(used.sum()),
    }
    if not 0 < int(truth.hit[used].sum()) < counts["compared"]:
        raise InputError(
            f"{int(truth.hit[used].sum())} of the {counts['compared']} genes that can be compared are hits: a comparison needs "
            "both kinds; give a table of truth with more genes"
        )
    methods = {OWN: (strength, np.sign(effect)), **{name: _signed(values) for name, values in given.items()}}
    methods[CHANCE] = (np.zeros(len(effect)), None)
    rows: list[dict[str, Any]] = []
    verdicts: dict[str, AtVerdict] = {}
    for direction, sign in (("either", 0), ("towards", 1), ("away", -1)):
        wanted = truth.hit & ((truth.direction == sign) | (sign == 0))
        if sign and not (truth.directed and 0 < wanted[used].sum() < used.sum()):
            continue
        scores = {name: _score(*method, sign)[used] for name, method in methods.items()}
        rows += _rows(direction, scores, wanted[used], tops, bootstrap, seed)
        right = _right(called[used], truth.direction[used], sign)
        verdicts[direction] = _at_verdict(called[used], wanted[used], right, sign)
    fields = schema([k for k in tops if k <= counts["compared"]])
    return Validation(
        table=pa.Table.from_pylist(rows, schema=fields),
        at_verdict=verdicts,
        counts=counts,
        rank_correlation=_correlation(effect[used], truth.score[used]),
    )


def schema(tops: Sequence[int]) -> pa.Schema:
    """Fields of the table, with unit and meaning in the metadata."""
    fields = []
    for name, kind, unit, meaning in COLUMNS:
        for k in tops if "<k>" in name else (0,):
            about = {"unit": unit, "meaning": meaning.replace("<k>", str(k))}
            fields.append(pa.field(name.replace("<k>", str(k)), kind, metadata=about))
    return pa.schema(fields)


def _rows(
    direction: str, scores: Mapping[str, np.ndarray], hit: np.ndarray, tops: Sequence[int], bootstrap: int, seed: int
) -> list[dict[str, Any]]:
    weights = _resamples(hit, bootstrap, seed)
    one = np.ones((1, len(hit)))
    found = {name: np.stack(areas(score, hit, one))[:, 0] for name, score in scores.items()}
    drawn = {name: np.stack(areas(score, hit, weights)) for name, score in scores.items()}
    others = [name for name in scores if name not in (OWN, CHANCE)]
    best = max(others, key=lambda name: found[name][0], default=CHANCE)
    rows = []
    for name, score in scores.items():
        row: dict[str, Any] = {"direction": direction, "method": name, "genes": len(hit), "hits": int(hit.sum())}
        for i, area in enumerate(("auroc", "auprc")):
            row[area] = found[name][i]
            row[f"{area}_low"], row[f"{area}_high"] = _ends(drawn[name][i])
            if name != OWN:
                row[f"{area}_ahead"] = found[OWN][i] - found[name][i]
                row[f"{area}_ahead_low"], row[f"{area}_ahead_high"] = _ends(drawn[OWN][i] - drawn[name][i])
        row |= {f"hits_in_top_{k}": hits_in_top(score, hit, k) for k in tops if k <= len(hit)}
        row["mean_reciprocal_rank"] = mean_reciprocal_rank(score, hit)
        row["best_baseline"] = name == best
        rows.append(row)
    return rows


def _resamples(hit: np.ndarray, count: int, seed: int) -> np.ndarray:
    """How often each gene is in every resample, float64 [B, G]: hits among hits, others among others."""
    rng = np.random.default_rng(seed)
    out = np.zeros((count, len(hit)))
    for side in (hit, ~hit):
        n = int(side.sum())
        out[:, side] = rng.multinomial(n, np.full(n, 1 / n), size=count)
    return out


def _ends(values: np.ndarray) -> tuple[float | None, float | None]:
    if not len(values):
        return None, None
    low, high = np.quantile(values, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def _signed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Strength and direction of a baseline."""
    if (values < 0).any() and (values > 0).any():
        known = np.nan_to_num(values)
        return np.abs(known), np.sign(known)
    return np.where(np.isfinite(values), values, np.nanmin(values, initial=np.inf)), None


def _score(strength: np.ndarray, way: np.ndarray | None, sign: int) -> np.ndarray:
    return strength if not sign or way is None else strength * way * sign


def _right(called: np.ndarray, direction: np.ndarray, sign: int) -> np.ndarray:
    """Calls whose direction the truth does not deny."""
    return (called == sign) if sign else (called != 0) & ((direction == 0) | (called == direction))


def _at_verdict(called: np.ndarray, hit: np.ndarray, right: np.ndarray, sign: int) -> AtVerdict:
    positive = (called == sign) if sign else called != 0
    true = int((hit & right).sum())
    return AtVerdict(
        sensitivity=Share.among(true, int(hit.sum())),
        specificity=Share.among(int((~hit & ~positive).sum()), int((~hit).sum())),
        positive_predictive_value=Share.among(true, int(positive.sum())),
        negative_predictive_value=Share.among(int((~hit & ~positive).sum()), int((~positive).sum())),
    )


def _correlation(effect: np.ndarray, score: np.ndarray) -> float | None:
    known = np.isfinite(score)
    if known.sum() < 3 or np.ptp(score[known]) == 0 or np.ptp(effect[known]) == 0:
        return None
    return float(spearmanr(effect[known], score[known]).statistic)


def _share(share: Share) -> str:
    if share.value is None:
        return f"not defined (0 of {share.of})"
    return f"{share.value:.2f} ({share.count} of {share.of}; {share.low:.2f} to {share.high:.2f})"
