"""The words that a study may say of a gene, one definition each, in the order in which they stand in the table of verdicts.

"No effect" is none of them: what was not found comes with the size of effect that could have been found.
"""

from enum import StrEnum


class Verdict(StrEnum):
    """What a study says of a gene."""

    TOWARDS = "towards the goal"
    AWAY = "away from the goal"
    INCOHERENT = "incoherent arms"
    UNSTABLE = "unstable"
    TECHNICAL = "technical"
    NOT_FOUND = "not found"
    NOT_ESTIMABLE = "not estimable"
    NOT_RUN = "not run"


CALLS = (Verdict.TOWARDS, Verdict.AWAY)  # the verdicts that claim an effect

DEFINITIONS = {
    Verdict.TOWARDS: (
        "The first arm (delete where both are run) moves cells towards the goal: it holds over donors, beyond what matched "
        "genes do, the adjusted p is at most 0.05, the other arm points the other way, and no donor or fold carries it alone."
    ),
    Verdict.AWAY: "The same, with the first arm moving cells away from the goal, and the other arm towards it.",
    Verdict.INCOHERENT: (
        "An arm moves cells beyond what matched genes do, but the arms together do not: they point the same way, or no more "
        "apart than those of matched genes."
    ),
    Verdict.UNSTABLE: (
        "An effect was found, but without one donor or without one fold less than half of it remains, or its sign changes."
    ),
    Verdict.TECHNICAL: (
        "An effect was found and is stable, but the gene is of a class that handling of cells often moves, or its signal may "
        "have leaked from cells of another type."
    ),
    Verdict.NOT_FOUND: (
        "No effect was found; one of the size `detectable` or more would have been found in at least four of five studies "
        "like this one."
    ),
    Verdict.NOT_ESTIMABLE: "The cells do not allow a test; `why` says what is lacking.",
    Verdict.NOT_RUN: "The gene was asked for and perturbed in no cell: no start cell has it, or the study stopped before.",
}
