"""The lowest versions that pyproject.toml declares, in an environment of their own, under a small part of the tests.

torch and Triton are those of constraints-cpu.txt: older CPU builds are not on every index, so their bounds are not tried here.
`make lowest` runs it; nothing else does, because it downloads what no other target needs.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("train",)  # what the tests below need beside the core
UNTRIED = ("torch",)
TESTS = (  # of what needs no other extra: kernels, encoder, counts, screens, statistics, SQL, the command line, training
    "tests/kernels/test_rank_shift.py", "tests/screen/encoder/test_encoder.py", "tests/screen/encoder/test_operators.py",
    "tests/screen/tokenizer/test_tokenize.py", "tests/screen/tokenizer/test_formats.py",
    "tests/screen/tokenizer/test_rank_value.py", "tests/screen/engine/test_screener.py", "tests/screen/stats",
    "tests/jobs/verbs/test_query.py", "tests/jobs/verbs/test_stats.py", "tests/jobs/cli/test_help.py",
    "tests/jobs/cli/test_entry.py", "tests/jobs/pretraining/test_continuation.py", "tests/jobs/compat/test_arguments.py",
)  # fmt: skip


def lowest() -> list[str]:
    """`name==version` of every direct dependency of the core and EXTRAS, at its lowest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    found = {}
    for line in lines:
        name, version = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?>=([\w.]+).*", line).groups()  # type: ignore[union-attr]
        if name not in UNTRIED:
            found[name] = f"{name}=={version}"
    return [*found.values(), "torch"]


def main() -> None:
    """Install and test; the first thing that is wrong ends it."""
    pins = lowest()
    print(" ".join(pins), flush=True)
    with tempfile.TemporaryDirectory(prefix="rankshift-lowest-") as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", "constraints-cpu.txt", *pins, "pytest", "hypothesis"], cwd=ROOT, check=True)
        subprocess.run([*pip, "--no-deps", "-e", "."], cwd=ROOT, check=True)
        there = [test for test in TESTS if (ROOT / test).exists()]
        assert there == list(TESTS), f"not there: {set(TESTS) - set(there)}"
        tests = [
            str(python),
            "-m",
            "pytest",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
            *TESTS,
        ]
        subprocess.run(tests, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
