"""The house: its floors and rooms, which way imports point, what a wheel ships and what it needs. Only sources are read.

What is not yet as it should be stands in NOT_YET. The list only shrinks: an entry nobody needs any longer fails as well.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from support import ROOT

# Low to high. A room imports only from rooms before it, also inside its functions; `screen` and `jobs` are the front doors.
SCREEN = (
    "errors extras query_memory compiled progress files genes families bundle cells tokenizer perturb encoder embed runs "
    "engine adaptive stats study report explore notebook"
)
JOBS = "show training pool executor pretraining finetuning verbs cohort compat cli root"
ROOMS = [
    "kernels",
    *(f"screen.{room}" for room in SCREEN.split()),
    "screen",
    *(f"jobs.{room}" for room in JOBS.split()),
    "jobs",
]
RAY = ["jobs.pool", "jobs.executor", "jobs.finetuning"]  # finetuning for its search with Ray Tune
LIMIT_LINES, LIMIT_FILES = 350, 14

# Imports that only a type checker follows, and that point up or close a circle: (from, to) and the reason.
TYPES_ONLY = {
    ("screen.cells.uncropped", "screen.cells.cells"): "Cells hold uncropped tokens, which are cut from Cells",
}

BY_STRING = {
    "jobs.executor.registry": "imports the executor that is chosen, and Ray only where it is",
    "jobs.pool.worker": "runs the function that a driver names",
    "jobs.training.families.family": "finds the file of a family by the name of the family",
    "screen.perturb.asked": "loads the file of a kind of perturbation; the table of kinds must not load torch for --help",
}

# Rule -> what breaks it today.
NOT_YET: dict[str, set[str]] = {
    "upward": set(),
    "lines": set(),
    "late": set(),
}

# Where the import has another name, or comes with another package.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "umap": "umap-learn"}

# Rooms or files that need an extra as soon as they are loaded; tests/jobs/cli/test_extras.py does without them.
NEEDS_EXTRA = {
    "ray": RAY,
    "scikit-learn": ["jobs.finetuning", "jobs.compat"],
    "transformers": [
        "jobs.training.families.bert",
        "jobs.training.families.plain_model",
        "jobs.finetuning",
        "jobs.pretraining",
    ],
    "matplotlib": ["jobs.finetuning.evaluation.plots"],
    "numba": ["screen.tokenizer.rank_value_loop"],
    "triton": ["kernels"],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One import statement's target: `kind` is top, late (in a function) or type (under TYPE_CHECKING)."""

    module: str  # "screen.runs.run" of ours, else as written
    ours: bool
    kind: str
    line: int
    reason: bool  # a comment beside it, or above the run of imports it stands in


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    name: str  # without "rankshift."
    path: str  # relative to the repository
    room: str
    lines: int
    tree: ast.Module
    imports: tuple[Import, ...]


@cache
def modules() -> dict[str, Module]:
    files = [path for floor in ("kernels", "screen", "jobs") for path in sorted((ROOT / floor).rglob("*.py"))]
    names = {_name(path): path for path in files}
    return {name: _read(name, path, names) for name, path in names.items()}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(name: str) -> str:
    return "kernels" if name.startswith("kernels") else ".".join(name.split(".")[:2])


def _read(name: str, path: Path, names: Iterable[str]) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = text.splitlines()
    return Module(
        name=name,
        path=str(path.relative_to(ROOT)),
        room=_room(name),
        lines=len(lines),
        tree=tree,
        imports=tuple(_imports(tree.body, lines, "top", names)),
    )


def _imports(body: list[ast.stmt], lines: list[str], kind: str, names: Iterable[str]) -> Iterator[Import]:
    reason = False
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            beside = lines[node.lineno - 1 : node.end_lineno]
            reason = reason or _says_why(lines[node.lineno - 2]) or any(map(_says_why_behind, beside))
            for module, ours in _targets(node, names):
                yield Import(module=module, ours=ours, kind=kind, line=node.lineno, reason=reason)
            continue
        reason = False
        inside = "late" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else kind
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            types = isinstance(node, ast.If) and part == "body" and "TYPE_CHECKING" in ast.unparse(node.test)
            yield from _imports(getattr(node, part, []), lines, "type" if types else inside, names)


def _says_why(line: str) -> bool:
    return line.lstrip().startswith("#") and _says_why_behind(line)


def _says_why_behind(line: str) -> bool:
    _, found, comment = line.partition("#")
    return bool(found) and not re.match(r"\s*(type: ignore|noqa|isort|ruff)", comment)


def _targets(node: ast.Import | ast.ImportFrom, names: Iterable[str]) -> Iterator[tuple[str, bool]]:
    if isinstance(node, ast.Import):
        found = [alias.name for alias in node.names]
    else:
        source = "." * node.level + (node.module or "")
        found = [
            f"{source}.{alias.name}" if _ours(f"{source}.{alias.name}") in names else source for alias in node.names
        ]
    for name in found:
        yield _ours(name), name.split(".")[0] == "rankshift"


def _ours(name: str) -> str:
    """The name by folder: rankshift.compat lies in jobs/."""
    inside = name.removeprefix("rankshift.")
    return f"jobs.{inside}" if inside != name and inside.split(".")[0] == "compat" else inside


def holds(rule: str, broken: dict[str, str]) -> None:
    """Fail with what breaks the rule ({what: why}) beyond NOT_YET, and with entries of NOT_YET that nothing needs."""
    known = NOT_YET.get(rule, set())
    said = [f"{what}: {why}" for what, why in sorted(broken.items()) if what not in known]
    said += [
        f"{what} is mended: take it out of NOT_YET[{rule!r}] in tests/test_house.py"
        for what in sorted(known - broken.keys())
    ]
    assert not said, "\n".join(["", *said])


def test_every_module_stands_in_a_room_that_has_its_place_in_the_order() -> None:
    broken = {m.path: f"room {m.room} has no place in ROOMS" for m in modules().values() if m.room not in ROOMS}
    holds("rooms", broken)


def test_imports_point_to_lower_rooms_also_the_late_ones() -> None:
    broken = {}
    for m in modules().values():
        for to in m.imports:
            if not to.ours or (to.kind == "type" and (m.name, to.module) in TYPES_ONLY):
                continue
            room = _room(to.module)
            if room != m.room and m.room in ROOMS and (room not in ROOMS or ROOMS.index(room) > ROOMS.index(m.room)):
                broken[f"{m.name} -> {to.module}"] = (
                    f"{m.path}:{to.line} ({to.kind}) imports upward, {m.room} is below {room}"
                )
    holds("upward", broken)


def test_what_is_imported_exists() -> None:
    holds(
        "exists",
        {
            f"{m.name} -> {to.module}": f"{m.path}:{to.line} imports a module that is not there"
            for m in modules().values()
            for to in m.imports
            if (to.ours and to.module not in modules()) or to.module.startswith(".")
        },
    )


def test_no_files_import_each_other_in_a_circle_also_not_late() -> None:
    """Within a room: between rooms the order forbids it."""
    graph = {m.name: {to.module for to in m.imports if to.kind != "type"} for m in modules().values()}
    holds("circles", dict.fromkeys(_circles_in_rooms(graph), "these files import each other in a circle"))


def test_types_close_no_circle_that_has_no_reason() -> None:
    there = {(m.name, to.module) for m in modules().values() for to in m.imports if to.kind == "type"}
    graph = {m.name: {to.module for to in m.imports} for m in modules().values()}
    for name, to in TYPES_ONLY:
        assert (name, to) in there, f"{name} imports {to} no longer for types: take the pair out of TYPES_ONLY"
        graph[name].discard(to)
    known = NOT_YET.get("circles", set())
    why = "a circle through imports for types: make none, or list the pair with its reason in TYPES_ONLY"
    holds("type circles", {circle: why for circle in _circles_in_rooms(graph) if circle not in known})


def _circles_in_rooms(graph: dict[str, set[str]]) -> list[str]:
    inside = {name: {to for to in others if _room(to) == _room(name)} for name, others in graph.items()}
    return [" <-> ".join(sorted(circle)) for circle in _circles(inside)]


def _circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of two modules and more (Tarjan)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for to in graph[node] & graph.keys():
            if to not in number:
                visit(to)
                low[node] = min(low[node], low[to])
            elif to in stack:
                low[node] = min(low[node], number[to])
        if low[node] == number[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(set(stack[at:]))
            del stack[at:]

    for node in graph:
        if node not in number:
            visit(node)
    return found


def test_a_late_import_has_its_reason_in_a_comment_beside_or_above_it() -> None:
    broken = {}
    for m in modules().values():
        lines = sorted({to.line for to in m.imports if to.kind == "late" and not to.reason})
        if lines:
            broken[m.path] = f"late import without a reason (start-up, optional dependency) beside it in line {lines}"
    holds("late", broken)


def test_modules_are_named_in_strings_only_at_the_front_doors() -> None:
    """What is imported by a string escapes every test here; a front door imports the same names for types."""
    found = {m.name: m.path for m in modules().values() if _by_string(m)}
    doors = {"screen", "jobs", "jobs.compat", "jobs.root"}
    holds(
        "strings", {path: "imports by a string" for name, path in found.items() if name not in doors | BY_STRING.keys()}
    )
    assert BY_STRING.keys() <= found.keys(), "take what is gone out of BY_STRING"
    for door in sorted(doors):
        m = modules()[door]
        named = {place if door == "jobs.root" else f"{door}.{place}" for place in _places(m.tree)}
        assert named <= modules().keys(), f"{m.path} opens a module that is not there: {named - modules().keys()}"
        typed = {to.module for to in m.imports if to.kind == "type" and to.ours}
        assert named in (set(), typed), f"{m.path}: its table names {named}, its imports for types {typed}"


def _by_string(m: Module) -> bool:
    used = {
        n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(m.tree) if isinstance(n, ast.Name | ast.Attribute)
    }
    return bool(used & {"import_module", "__import__"})


def _places(tree: ast.Module) -> set[str]:
    """Values of a front door's table {name: module}."""
    tables = [n.value for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Dict)]
    return {value for table in tables for value in ast.literal_eval(table).values()}


def test_kernels_know_tensors_only() -> None:
    """They read no file and know neither Ray nor transformers nor anything of ours."""
    allowed = {"torch", "triton", "numpy", "rankshift"} | set(sys.stdlib_module_names)
    closed = {"io", "os", "pathlib", "shutil", "tempfile", "json", "pickle", "subprocess", "socket"}
    broken = {}
    for m in modules().values():
        if m.room == "kernels":
            top = {to.module.split(".")[0] if not to.ours else "rankshift" for to in m.imports}
            strange = (top - allowed) | (top & closed)
            if strange:
                broken[m.path] = f"kernels import {sorted(strange)}"
            if any(isinstance(n, ast.Call) and getattr(n.func, "id", "") == "open" for n in ast.walk(m.tree)):
                broken[m.path] = "kernels open a file"
    holds("kernels", broken)
    assert not (ROOT / "kernels" / "__init__.py").exists(), (
        "a package called kernels shadows one that transformers imports"
    )


@pytest.mark.parametrize(("package", "rooms"), [("ray", RAY), ("typer", ["jobs.cli"])])
def test_only_these_rooms_know(package: str, rooms: list[str]) -> None:
    broken = {}
    for m in modules().values():
        if m.room not in rooms:
            for to in m.imports:
                if not to.ours and to.module.split(".")[0] == package:
                    broken[m.path] = f"line {to.line} imports {package}, which only {rooms} do"
    holds(package, broken)


def test_tests_of_a_floor_know_no_higher_floor() -> None:
    higher = {"screen": r"rankshift\.(jobs|compat)\b", "kernels": r"rankshift\.(screen|jobs|compat)\b"}
    broken = {}
    for floor, names in higher.items():
        for path in sorted((ROOT / "tests" / floor).rglob("*.py")):
            if found := re.search(names, path.read_text(encoding="utf-8")):
                broken[str(path.relative_to(ROOT))] = f"knows {found.group()}: its place is under a higher floor"
    holds("tests", broken)


def test_no_file_is_longer_than_can_be_read_at_once() -> None:
    long = {m.path: f"{m.lines} lines, {LIMIT_LINES} at most" for m in modules().values() if m.lines > LIMIT_LINES}
    holds("lines", {path: why for path, why in long.items() if not path.startswith("kernels/")})


def test_no_folder_has_more_files_than_can_be_seen_at_once() -> None:
    broken = {}
    for root in ("kernels", "screen", "jobs", "tests"):
        for folder in [ROOT / root, *(ROOT / root).rglob("*/")]:
            if not {"__pycache__", "golden"} & set(folder.relative_to(ROOT).parts):
                count = sum(path.is_file() for path in folder.iterdir())
                if count > LIMIT_FILES:
                    broken[str(folder.relative_to(ROOT))] = f"{count} files, {LIMIT_FILES} at most"
    holds("files", broken)


def test_every_module_opens_by_saying_what_it_is() -> None:
    holds("heads", {m.path: "has no docstring" for m in modules().values() if not ast.get_docstring(m.tree)})
    folders = {path.parent for floor in ("screen", "jobs") for path in (ROOT / floor).rglob("*.py")}
    bare = {str(f.relative_to(ROOT)): "has no __init__.py" for f in folders if not (f / "__init__.py").exists()}
    holds("inits", bare)


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_wheel_ships_every_package() -> None:
    packages = {_package(str((ROOT / m.path).parent.relative_to(ROOT))) for m in modules().values()}
    listed = project()["tool"]["setuptools"]["packages"]
    broken = dict.fromkeys(packages - set(listed), "is not in `packages` of pyproject.toml: the wheel lacks it")
    broken |= dict.fromkeys(set(listed) - packages, "is in `packages` of pyproject.toml, and there is no such folder")
    holds("packages", broken)
    assert listed == sorted(set(listed)), "packages of pyproject.toml: sorted, each once"


def _package(folder: str) -> str:
    return ".".join(["rankshift", *filter(None, _rooted(folder).split("/"))])


def _rooted(folder: str) -> str:
    """A path below `rankshift` where it is installed: the files of jobs/root/ are the package itself."""
    if folder.split("/")[:2] == ["jobs", "root"]:
        return "/".join(folder.split("/")[2:])
    return folder.removeprefix("jobs/") if folder.split("/")[:2] == ["jobs", "compat"] else folder


def test_the_wheel_ships_every_data_file() -> None:
    data = project()["tool"]["setuptools"]["package-data"]
    shipped = {f"{package.replace('.', '/')}/{pattern}" for package, patterns in data.items() for pattern in patterns}
    broken = {}
    for floor in ("kernels", "screen", "jobs"):
        for path in (ROOT / floor).rglob("*"):
            place = f"rankshift/{_rooted(path.relative_to(ROOT).as_posix())}"
            kept = path.suffix == ".py" or "__pycache__" in path.parts  # compiled code is made where it is used
            if path.is_file() and not kept and not any(fnmatch(place, p) for p in shipped):
                broken[str(path.relative_to(ROOT))] = (
                    "is in no line of `package-data` of pyproject.toml: the wheel lacks it"
                )
    holds("data", broken)


def test_what_is_imported_is_declared_and_the_reverse() -> None:
    declared = {_distribution(line) for line in project()["project"]["dependencies"]}
    extras = {_distribution(line) for lines in project()["project"]["optional-dependencies"].values() for line in lines}
    used: set[str] = set()
    broken = {}
    for m in modules().values():
        for to in m.imports:
            top = to.module.split(".")[0]
            if to.ours or top in sys.stdlib_module_names or to.module.startswith("."):
                continue
            name = DISTRIBUTIONS.get(top, top)
            used.add(name)
            inside = any(m.name == place or m.name.startswith(f"{place}.") for place in NEEDS_EXTRA.get(name, ()))
            if name not in (declared | extras if to.kind in ("late", "type") or inside else declared):
                broken[name] = f"{m.path}:{to.line} imports it ({to.kind}), no dependency of pyproject.toml declares it"
    broken |= dict.fromkeys(declared - used, "is declared in pyproject.toml, and nothing imports it")
    holds("dependencies", broken)


def _distribution(line: str) -> str:
    return re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0].lower()
