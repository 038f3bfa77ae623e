"""Every citation can be followed: sections of docs/semantics, links of the pages, names of modules and files."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT

SEMANTICS = {"PS": "perturbation", "TS": "training"}
ROOMS = ("kernels", "screen", "jobs", "tests", "benchmarks", "docs")
CODE = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.md"))])
METADATA = {"rankshift.layer", "rankshift.statistics"}  # a key and a stamp in Parquet files, no modules
BARE = re.compile(r"\bB[1-9]\d?\b")  # a published bug by its number alone
FREE = ("docs/migrating.md", "docs/semantics/perturbation.md")  # pages that may: the number is their subject


def anchors(page: str) -> set[str]:
    """What of a page can be cited: numbers of headings, of bugs and wastes (rows of tables), of examples (bold)."""
    text = (ROOT / "docs" / "semantics" / f"{page}.md").read_text()
    headings = re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", text, re.M)
    return {*headings, *re.findall(r"^\| ([BW]\d+)\b", text, re.M), *re.findall(r"^\*\*([EN]\d+)\.\*\*", text, re.M)}


def lines(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """(place, text) of every line."""
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def slug(heading: str) -> str:
    """The fragment by which a heading is linked."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def target(name: str) -> bool:
    """Does rankshift.x.y lead to a module, or to something a module holds?"""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def test_all_sections_of_the_two_pages_can_be_cited() -> None:
    counted = {f"{letter}{n + 1}" for letter, most in (("B", 35), ("E", 15), ("N", 4)) for n in range(most)}
    assert counted | {"1.2", "2.5", "3.7", "9"} <= anchors("perturbation")
    assert {"0", "2.5", "3.7", "5.4", "8.1"} <= anchors("training")


def test_every_cited_section_is_there() -> None:
    known = {name: anchors(page) for name, page in SEMANTICS.items()}
    cited = [
        (place, name, section)
        for place, line in lines([*CODE, *PAGES])
        for name, section in re.findall(r"\b(PS|TS) ([BENW]?\d+(?:\.\d+)?)", line)
    ]
    assert len(cited) > 40
    assert [found for found in cited if found[2] not in known[found[1]]] == []


@pytest.mark.slow
def test_no_citation_leaves_the_page_open() -> None:
    """A comment cites `PS B10` and `TS 3.7`, never the number without its page."""
    nameless = re.compile(r"\bsemantics,? (?:section )?\(?[BENW]?\d")
    loose = [place for place, line in lines([*CODE, *PAGES]) if nameless.search(line)]
    for place, line in lines([*CODE, *PAGES]):
        if not place.startswith(FREE) and BARE.search(re.sub(r"\bPS B\d+", "", line)):
            loose.append(place)
    assert loose == []


def test_bugs_that_the_migration_page_lists_are_explained() -> None:
    numbers = set(BARE.findall((ROOT / "docs" / "migrating.md").read_text()))
    assert len(numbers) > 20
    assert numbers <= anchors("perturbation")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        file, _, fragment = link.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), link
        if fragment:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.M)
            assert fragment in {slug(heading) for heading in headings}, link


def test_modules_that_pages_name_exist() -> None:
    names = {
        (place, name.rstrip("."))
        for place, line in lines(PAGES)
        for name in re.findall(r"\brankshift(?:\.\w+)+", line)
        if name not in METADATA
    }
    assert len(names) > 5
    assert sorted(found for found in names if not target(found[1])) == []


def test_files_that_pages_and_comments_name_exist() -> None:
    wanted = re.compile(rf"(?<![\w/.])(?:{'|'.join(ROOMS)})/[\w/.-]+\.(?:py|md|csv|png|json)\b")
    lost = [
        (place, name)
        for place, line in lines([*CODE, *PAGES])
        for name in wanted.findall(line)
        if not (ROOT / name).exists() and not re.search(r"\b(?:NAME|MODEL_TYPE)\b", name)  # a recipe's placeholder
    ]
    assert lost == []


def test_the_map_in_contributing_names_every_room() -> None:
    drawing = (ROOT / "CONTRIBUTING.md").read_text().split("```")[1]
    floor, drawn = "", set()
    for line in drawing.splitlines():
        if found := re.match(r"(\w+)/ ", line):
            floor = found[1]
        elif found := re.match(r"  (\w+) ", line):
            drawn.add((floor, found[1]))
    folders = {
        (floor, path.parent.name) for floor in ("screen", "jobs") for path in (ROOT / floor).glob("*/__init__.py")
    }
    files = {(floor, name) for floor, name in drawn if (ROOT / floor / f"{name}.py").exists()}
    assert drawn - files == folders
