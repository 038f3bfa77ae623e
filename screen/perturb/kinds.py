"""The kinds of perturbation: a line for each, and nothing of what it does, which is in a file of its own.

To add a kind, write its file (a `perturbation.Kind`) and add its line here; the command line, the report and the published
classes read this table. It imports nothing, so that `--help` waits for no torch.
"""

from dataclasses import dataclass

PLACE = "rankshift.screen.perturb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A kind by name. module, attribute: where its `Kind` is. doing: how a headline begins. options: those it takes alone.

    moves: it takes one gene at a time to another rank, and needs an option that says where.
    """

    module: str
    doing: str
    attribute: str = "KIND"
    options: tuple[str, ...] = ()

    @property
    def moves(self) -> bool:
        """Does it need to be told the rank its gene goes to?"""
        return "rank_shift" in self.options


KINDS: dict[str, Entry] = {
    "delete": Entry(module=f"{PLACE}.delete", doing="Deleting", options=("refill",)),
    "overexpress": Entry(module=f"{PLACE}.overexpress", doing="Overexpressing", options=("reference_overflow",)),
    "activate": Entry(
        module=f"{PLACE}.shift_rank", attribute="ACTIVATE", doing="Activating", options=("rank_shift", "to")
    ),
    "inhibit": Entry(
        module=f"{PLACE}.shift_rank", attribute="INHIBIT", doing="Inhibiting", options=("rank_shift", "to")
    ),
}


def taking(option: str) -> list[str]:
    """The kinds that take an option.

    >>> taking("to")
    ['activate', 'inhibit']
    """
    return [name for name, entry in KINDS.items() if option in entry.options]


def doing(kind: str) -> str:
    """How a headline about a run of this kind begins; a run of a kind that is not here any more is told by its name."""
    return KINDS[kind].doing if kind in KINDS else f"{kind}:"
