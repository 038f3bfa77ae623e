"""The wheel as a user gets it: built from the source archive, installed into a bare environment, used outside the checkout.

The environment that runs this lends the bare one what the wheel itself requires, and what that requires in turn: no
extra, nor its own copy of rankshift.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "v1"
FLOORS = ("kernels", "screen", "jobs")
MOST = 60  # packages that the wheel may bring without extras, itself left out
EXTRA = {"ray", "transformers", "scikit-learn", "plotly", "numba", "matplotlib"}  # large ones, which stay in extras

IMPORT_ALL = """
import importlib, sys
from rankshift.screen.extras import said
from rankshift.screen.errors import InputError
home, *names = sys.argv[1:]
waiting = 0
for name in names:
    try:
        with said():
            module = importlib.import_module(name)
    except InputError:  # it waits for an extra
        waiting += 1
        continue
    assert module.__file__.startswith(home), f"{name} came from {module.__file__}, not from the wheel"
print(len(names) - waiting, "modules imported from the wheel,", waiting, "more wait for an extra")
"""


def main() -> None:
    """Build, compare, install, import, screen; the first thing that is wrong ends it."""
    with tempfile.TemporaryDirectory(prefix="rankshift-wheel-") as folder:
        work = Path(folder)
        wheel = build(work)
        names = compare(wheel)
        python = install(wheel, work)
        use(python, names, work)


def build(work: Path) -> Path:
    """The wheel made from the source archive of the files under version control, and nothing else that lies around."""
    source = work / "source"
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    archive = work / backend("build_sdist", source, work)
    with tarfile.open(archive) as opened:
        opened.extractall(work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    return work / backend("build_wheel", unpacked, work)


def tracked() -> list[str]:
    """Files under version control that are there, without links."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def backend(hook: str, source: Path, out: Path) -> str:
    """The file that setuptools made by its `hook`; it prints all it does, so only its last line is kept."""
    call = f"from setuptools import build_meta; print(build_meta.{hook}({str(out)!r}))"
    return run([sys.executable, "-c", call], source).splitlines()[-1]


def compare(wheel: Path) -> list[str]:
    """Names of the modules in the wheel, which holds each file of the product and no other."""
    wanted = {place(name) for name in tracked() if name.split("/")[0] in FLOORS}
    with zipfile.ZipFile(wheel) as opened:
        found = {name for name in opened.namelist() if ".dist-info/" not in name}
    if found != wanted:
        sys.exit(f"the wheel lacks {sorted(wanted - found)}\nand should not hold {sorted(found - wanted)}")
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in found if name.endswith(".py")
    ]
    print(f"{wheel.name}: {len(found)} files")
    return sorted(name for name in modules if not name.endswith("__main__"))


def place(name: str) -> str:
    """Where a file of the product lies in the wheel."""
    if name.startswith("jobs/root/"):
        return "rankshift/" + name.removeprefix("jobs/root/")
    return "rankshift/" + name.removeprefix("jobs/") if name.startswith("jobs/compat/") else f"rankshift/{name}"


def install(wheel: Path, work: Path) -> Path:
    """The Python of a new environment that has the wheel, and sees the dependencies of this one."""
    bare = work / "bare"
    run([sys.executable, "-m", "venv", str(bare)], work)
    python = bare / "bin" / "python"
    run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], work)
    packages = Path(run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], work).strip())
    lend(required(wheel), packages)
    run([str(python), "-m", "pip", "check"], work)
    return python


def required(wheel: Path) -> list[Distribution]:
    """What a wheel requires without its extras, and what that requires in turn, as it is installed here."""
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        lines = Parser().parsestr(opened.read(name).decode()).get_all("Requires-Dist") or []
    found: dict[str, Distribution] = {}
    left, seen = [(Requirement(line), "") for line in lines], set()
    while left:
        wanted, extra = left.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        found.setdefault(name, distribution(name))
        for part in {"", *wanted.extras} - {e for n, e in seen if n == name}:
            seen.add((name, part))
            left += [(Requirement(line), part) for line in found[name].requires or ()]
    print(f"{len(found)} packages are required by the wheel: {', '.join(sorted(found))}")
    large = EXTRA & found.keys()
    if large or len(found) > MOST:
        sys.exit(f"a bare install brings {len(found)} packages, {MOST} are the most, and {sorted(large)} of an extra")
    return list(found.values())


def lend(packages: list[Distribution], folder: Path) -> None:
    """Links in `folder` to all that these packages installed beside each other, their records among it."""
    for package in packages:
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(package.locate_file(top))))


def use(python: Path, names: list[str], work: Path) -> None:
    """Import everything, then go from a checkpoint to an answer with the installed command."""
    home = str(python.parents[1].resolve())
    print(run([str(python), "-c", IMPORT_ALL, home, *names], work).strip())
    command = str(python.with_name("rankshift"))
    for data in ("model", "vocabulary.json", "medians.json", "cells.parquet", "cells.h5ad"):
        copy = shutil.copytree if (GOLDEN / data).is_dir() else shutil.copyfile
        copy(GOLDEN / data, work / data)
    run([command, "--help"], work)
    run([str(python), "-m", "rankshift", "--version"], work)
    run([str(python), "-c", "import rankshift as rs; rs.run, rs.Run.open, rs.jobs.screen, rs.__version__"], work)
    vocabulary = ["--vocabulary", "vocabulary.json", "--medians", "medians.json"]
    run([command, "bundle", "model", *vocabulary, "--out", "bundle"], work)
    screen = ["--bundle", "bundle", "--perturb", "delete"]
    run([command, "screen", "cells.parquet", *screen, "--out", "run"], work)
    run([command, "screen", "cells.h5ad", *screen, "--out", "of-counts"], work)
    answer = run([command, "query", "run", "SELECT count(*) AS n FROM shifts", "--format", "csv"], work)
    if answer.split()[1:] != ["551"]:
        sys.exit(f"the screen by the wheel has other than 551 rows: {answer}")
    run([command, "stats", "run"], work)
    run([command, "report", "run", "--out", "report.html"], work)
    print("screened, asked and reported outside the checkout")


def run(command: list[str], folder: Path) -> str:
    """What the command printed; where it fails, all it said and the end."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HOME": str(folder), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)[:200]}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
