"""Names of columns and states where they become SQL, which takes Donor and donor for one name and cannot say an empty one.

There is one rule: a column that SQL would take for another gets a name that nobody writes by chance, so that a query finds the
right column or none; and a screen, whose tables are asked by names, is refused before it computes anything.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from rankshift.screen.errors import InputError

RESERVED = ("file_row_number", "filename", "file_index")  # columns that DuckDB itself adds to a file's


def folded(name: str) -> str:
    """What SQL makes of a name: it tells apart what is not ASCII, and no cases of what is.

    >>> folded("Donor_É")
    'donor_É'
    """
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def sql_names(names: Sequence[str]) -> list[str]:
    """A name for every column that SQL tells from all others: its own, or where that is another's, too, one with its place.

    >>> sql_names(["Donor", "age", "donor", ""])
    ['Donor (1)', 'age', 'donor (3)', '(4)']
    """
    count = Counter(map(folded, names))
    out, taken = [], {name for name, n in count.items() if n == 1}
    for place, name in enumerate(names, 1):
        new = name
        if count[folded(name)] > 1 or not name or folded(name) in RESERVED:
            new = f"{name} ({place})".strip()
            while folded(new) in taken:
                new += "_"
            taken.add(folded(new))
        out.append(new)
    return out


def free_name(wanted: str, names: Iterable[str]) -> str:
    """`wanted` for a column of our own, with _ behind it until it is none of the names."""
    used = {*map(folded, names)}
    while folded(wanted) in used:
        wanted += "_"
    return wanted


def beside(names: Iterable[str], taken: Collection[str]) -> list[str]:
    """The names with `obs_` in front of those that are among the names `taken`, whatever their case.

    >>> beside(["Kind", "age"], ["kind"])
    ['obs_Kind', 'age']
    """
    names = list(names)
    used = {*map(folded, taken)}
    held = {name for name in map(folded, names) if name not in used}
    out = []
    for name in names:
        if folded(name) in used:
            while folded(name) in used or folded(name) in held:
                name = f"obs_{name}"
        used.add(folded(name))
        out.append(name)
    return out


def check_names(names: Sequence[str], what: str, fix: str) -> None:
    """Refuse names that are one name for SQL, and those that it cannot say. what: whose they are; fix: what to do."""
    first: dict[str, str] = {}
    for name in names:
        if not name:
            raise InputError(f"{what} have one without a name, which SQL cannot say: {fix}")
        if folded(name) in RESERVED or "\0" in name:
            raise InputError(f"{what} have {name!r}, a name that SQL keeps for itself: {fix}")
        if folded(name) in first:
            raise InputError(f"{what} have {first[folded(name)]!r} and {name!r}, which are one name for SQL: {fix}")
        first[folded(name)] = name
