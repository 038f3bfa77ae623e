"""Pictures of docs/perturbations.md: rank lists before and after, edited by the engine itself.

Run it from the root of the repository: python docs/perturbations.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

from rankshift.kernels.perturbed_lists import PerturbedLists, trace
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.asked import asked
from rankshift.screen.perturb.edits import CellEdits
from rankshift.screen.perturb.perturbation import edits_of

OUT = Path(__file__).parent / "img"
NAMES = dict(enumerate("ABCDEFGHX", 10))
TOKEN = {name: token for token, name in NAMES.items()}
CELL = np.array([TOKEN[name] for name in "ABCDEFGH"], np.int32)
PLAIN, EDITED, INK = "#e3e8ed", "#f2a65a", "#1f2933"
DPI = 110


def lists_of(edits: CellEdits) -> list[list[int]]:
    """The perturbed lists, made from the edits as the encoder makes them."""
    lists = PerturbedLists.pack(
        ids=torch.from_numpy(CELL),
        base=torch.zeros(len(edits), dtype=torch.int64),
        base_length=torch.full((len(edits),), len(CELL), dtype=torch.int32),
        length=torch.from_numpy(edits.length),
        source=torch.from_numpy(edits.source),
        destination=torch.from_numpy(edits.destination),
        token=torch.from_numpy(edits.token),
    )
    index, inserted, _ = trace(lists)
    tokens = torch.where(inserted >= 0, inserted, lists.ids[index.clamp(min=0)])
    return [part.tolist() for part in torch.split(tokens, lists.length.tolist())]


def perturbed(kind: str, genes: str = "", *, limit: int = 16, **options: object) -> list[list[int]]:
    """The lists of a perturbation of the cell; `genes` are their letters, none for all."""
    anchor = options.pop("anchor", None)
    perturb = asked(
        kind,
        genes=tuple(TOKEN[g] for g in genes) or None,
        frame=Frame(),
        limit=limit,
        anchor=TOKEN[anchor] if anchor else None,
        **{"how": "each", **options},
    )
    return lists_of(edits_of(CELL, perturb))


def draw(name: str, rows: list[tuple[str, list[int], str]]) -> None:
    """One row of boxes per list: (label, tokens, letters of the perturbed genes)."""
    longest = max(len(tokens) for _, tokens, _ in rows)
    height = 0.46 * len(rows) + 0.35
    figure, axes = plt.subplots(figsize=(7.2, height))
    for i, (label, tokens, marked) in enumerate(rows):
        axes.text(-0.35, -i, label, ha="right", va="center", color=INK, fontsize=10, family="monospace")
        for place, token in enumerate(tokens):
            colour = EDITED if NAMES[token] in marked else PLAIN
            box = FancyBboxPatch(
                (place + 0.08, -i - 0.32), 0.84, 0.64, boxstyle="round,pad=0,rounding_size=0.12", fc=colour, ec="none"
            )
            axes.add_patch(box)
            axes.text(place + 0.5, -i, NAMES[token], ha="center", va="center", color=INK, fontsize=10)
    for place in range(longest):
        axes.text(place + 0.5, 0.62, str(place + 1), ha="center", va="center", color="#7b8794", fontsize=8)
    axes.text(-0.35, 0.62, "rank", ha="right", va="center", color="#7b8794", fontsize=8)
    axes.set_xlim(-4.6, 9.2)
    axes.set_ylim(-len(rows) + 0.45, 0.95)
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    OUT.mkdir(exist_ok=True)
    figure.savefig(OUT / f"perturb-{name}.png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Draw all pictures."""
    cell = CELL.tolist()

    def rows(genes: str, *lists: tuple[str, list[int], str]) -> list[tuple[str, list[int], str]]:
        return [("the cell", cell, genes), *lists]

    (deleted,) = perturbed("delete", "D")
    draw("delete", rows("D", ("delete D", deleted, "")))
    (up,) = perturbed("overexpress", "F")
    (new,) = perturbed("overexpress", "X")
    (full,) = perturbed("overexpress", "X", limit=8)
    draw(
        "overexpress",
        rows("F", ("overexpress F", up, "F"), ("overexpress X", new, "X"), ("X, 8 positions", full, "X")),
    )
    (one,), (front,) = perturbed("activate", "F", rank_shift=1), perturbed("activate", "F", to=0.0)
    draw("activate", rows("F", ("--rank-shift 1", one, "F"), ("--to 0", front, "F")))
    (one,), (end,) = perturbed("inhibit", "B", rank_shift=1), perturbed("inhibit", "B", to=1.0)
    draw("inhibit", rows("B", ("--rank-shift 1", one, "B"), ("--to 1", end, "B")))
    draw("each", rows("BE", *((f"delete {g}", *perturbed("delete", g), "") for g in "BE")))
    joint, first = perturbed("delete", "BE", how="together"), perturbed("overexpress", "EB", how="together")
    draw("together", rows("BE", ("delete B, E", joint[0], ""), ("overexpress E, B", first[0], "EB")))
    labels = ["B, E", "B, G", "E, G"]
    pairs = perturbed("delete", "BEG", how="pairs")
    draw("pairs", rows("BEG", *((f"delete {label}", tokens, "") for label, tokens in zip(labels, pairs, strict=True))))
    partners = [NAMES[t] for t in cell if NAMES[t] != "E"]
    anchored = perturbed("overexpress", how="pairs", anchor="E")
    shown = [(f"E with {g}", tokens, f"E{g}") for g, tokens in zip(partners, anchored, strict=True)]
    draw("anchor", rows("E", *shown[:2], *shown[-1:]))


if __name__ == "__main__":
    main()
