"""What the wet lab says: a table of genes with a label (hit or not, with a direction) or a score, matched to genes by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rankshift.screen.cells.labels import label_texts
from rankshift.screen.errors import InputError

GENE_COLUMNS = ("gene_id", "gene", "ensembl_id", "symbol")
YES, NO = frozenset(("1", "true", "yes", "y", "hit")), frozenset(("0", "false", "no", "n", "none", "no hit", "not hit"))
DIRECTIONS = {"towards": 1, "toward": 1, "up": 1, "1": 1, "+1": 1, "+": 1, "away": -1, "down": -1, "-1": -1, "-": -1}
SHARE = 0.1  # of the genes with a score that count as hits: those of the largest, without regard to the sign


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """What is known of the genes [G] of a study, in its order. known: bool, the table has the gene; hit: bool.

    direction: int, 1 for a hit whose perturbation (the first arm's) moves cells towards the goal, -1 away, 0 unsaid; directed:
    some hit has one. score: float64, NaN where none. unmatched: genes of the table that the study does not have.
    """

    known: np.ndarray
    hit: np.ndarray
    direction: np.ndarray
    score: np.ndarray
    directed: bool
    unmatched: tuple[str, ...]


def truth_of(
    table: pa.Table,
    gene_ids: Sequence[str],
    symbols: Sequence[str | None],
    *,
    share: float = SHARE,
    name: str = "--truth",
) -> Truth:
    """Match a table to genes by Ensembl id (its version after a dot does not count) or else by symbol in any case.

    Its columns: one of GENE_COLUMNS; `hit` (yes or no, 1 or 0), and if wanted `direction` (towards, away; 1, -1); or `score`,
    of which the largest `share`, without regard to the sign, are hits and the sign is the direction. Raises InputError where
    columns are missing or cannot be read, a gene is said to be both, no gene is of the study, or all or none are hits.
    """
    gene_column = next((column for column in GENE_COLUMNS if column in table.column_names), None)
    if gene_column is None or not {"hit", "score"} & set(table.column_names):
        raise InputError(
            f"{name} has the columns {', '.join(table.column_names)}: it needs gene_id or symbol, and hit or score"
        )
    given = [
        text or "" for text in label_texts(table.column(gene_column), f"{name} column {gene_column!r}").to_pylist()
    ]
    place = _places(gene_ids, symbols)
    at = np.array([place.get(_plain(text), -1) for text in given], np.int64)
    if not (at >= 0).any():
        raise InputError(
            f"{name}: none of its {len(given):,} genes ({', '.join(given[:3])}, …) is a gene of the study: "
            "give Ensembl ids or symbols of the study's species"
        )
    score = _numbers(table, "score", name)
    hit = _hits(table, score, share, name)
    direction = _directions(table, score, hit, name)
    out = Truth(
        known=np.zeros(len(gene_ids), bool),
        hit=np.zeros(len(gene_ids), bool),
        direction=np.zeros(len(gene_ids), np.int64),
        score=np.full(len(gene_ids), np.nan),
        directed=bool((direction[(at >= 0) & hit] != 0).any()),
        unmatched=tuple(text for text, i in zip(given, at.tolist(), strict=True) if i < 0),
    )
    for row in np.flatnonzero(at >= 0).tolist():
        gene = at[row]
        if out.known[gene] and (out.hit[gene] != hit[row] or out.direction[gene] != direction[row]):
            raise InputError(f"{name} says two things of gene {given[row]!r}: keep one row of each gene")
        out.known[gene], out.hit[gene] = True, hit[row]
        out.direction[gene], out.score[gene] = direction[row], score[row]
    hits = int(out.hit.sum())
    if not 0 < hits < int(out.known.sum()):
        raise InputError(
            f"{name}: {hits} of the {int(out.known.sum())} genes that the study has are hits: a comparison needs both kinds"
        )
    return out


def _places(gene_ids: Sequence[str], symbols: Sequence[str | None]) -> dict[str, int]:
    """Number of a gene by its id or symbol; a symbol of two genes is none."""
    count: dict[str, int] = {}
    for symbol in symbols:
        if symbol:
            count[_plain(symbol)] = count.get(_plain(symbol), 0) + 1
    out = {_plain(s): i for i, s in enumerate(symbols) if s and count[_plain(s)] == 1}
    return out | {_plain(gene): i for i, gene in enumerate(gene_ids)}


def _plain(name: str) -> str:
    text = name.strip().upper()
    return text.split(".")[0] if text.startswith("ENS") else text


def _numbers(table: pa.Table, column: str, name: str) -> np.ndarray:
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan)
    try:
        values = table.column(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{name}: column {column!r} holds values that are no numbers: give numbers") from error
    return np.array(values, np.float64)


def _hits(table: pa.Table, score: np.ndarray, share: float, name: str) -> np.ndarray:
    if "hit" not in table.column_names:
        size = np.abs(score)
        count = max(1, round(share * int(np.isfinite(size).sum())))
        cut = np.sort(np.where(np.isfinite(size), size, -1))[::-1][count - 1]
        return np.isfinite(size) & (size >= cut)
    texts = [(t or "").strip().lower() for t in label_texts(table.column("hit"), f"{name} column 'hit'").to_pylist()]
    odd = next((t for t in texts if t not in YES | NO), None)
    if odd is not None:
        raise InputError(f"{name}: column 'hit' holds {odd!r}: give yes or no, 1 or 0")
    return np.array([t in YES for t in texts], bool)


def _directions(table: pa.Table, score: np.ndarray, hit: np.ndarray, name: str) -> np.ndarray:
    if "direction" not in table.column_names:
        signed = "hit" not in table.column_names and bool((score < 0).any())  # scores of one sign say no direction
        return np.where(hit & signed, np.sign(np.nan_to_num(score)), 0).astype(np.int64)
    texts = [
        (t or "").strip().lower()
        for t in label_texts(table.column("direction"), f"{name} column 'direction'").to_pylist()
    ]
    odd = next((t for t, h in zip(texts, hit, strict=True) if h and t and t not in DIRECTIONS), None)
    if odd is not None:
        raise InputError(f"{name}: column 'direction' holds {odd!r}: give towards or away")
    found: Mapping[str, int] = DIRECTIONS
    return np.array([found.get(t, 0) if h else 0 for t, h in zip(texts, hit, strict=True)], np.int64)
