"""Seeded faults in screens, trainings and jobs, for as long as is wanted, and a table of what came of them.

    python -m tests.faults --minutes 20 --seed 1 [--only WORDS] [--works alone,private,pool,job,training]

docs/testing.md says what each fault is and what "survived" means. Nothing outside a temporary folder is touched, and only
processes of its own are signalled.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from support import HALTS  # noqa: E402

from .trial import FAULTS, run_trial  # noqa: E402
from .works import PATIENCE, Screen, Training, Work, bundle_at, head  # noqa: E402

WORKS = ("alone", "private", "pool", "job", "training")


def environment(folder: Path) -> dict[str, str]:
    """That of every process of a trial: a home of its own, no cluster, one thread, and marks to stand at."""
    for name in ("h", "marks"):
        (folder / name).mkdir()
    os.environ[HALTS] = str(folder / "marks")
    own = {
        "HOME": str(folder / "h"),
        "RAY_TMPDIR": str(folder / "h"),  # short: Ray's socket paths have a limit
        "PYTHONPATH": str(TESTS / "halting"),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own


def works(names: list[str], bundle: Path, env: dict[str, str], stack: ExitStack) -> list[Work]:
    """The works of these names; a cluster is started where one needs it."""
    made: list[Work] = []
    cluster = stack.enter_context(head(env)) if {"pool", "job"} & set(names) else env
    for name in names:
        if name == "training":
            made.append(Training(name, bundle, env))
        elif name in ("pool", "job"):
            made.append(Screen(name, bundle, cluster, workers=None, job=name == "job"))
        else:
            made.append(Screen(name, bundle, env, workers=2 if name == "private" else 0))
    return made


def main() -> int:
    """Trials until the time is up; the exit code says whether all survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="faults whose name holds these words")
    parser.add_argument("--works", default=",".join(WORKS))
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    table: dict[str, Counter[str]] = defaultdict(Counter)
    folder = Path(tempfile.mkdtemp(prefix="rsf", dir="/tmp"))
    try:
        with ExitStack() as stack:
            env = environment(folder)
            chosen = works(options.works.split(","), bundle_at(folder), env, stack)
            pairs = [
                (work, fault)
                for work in chosen
                for fault in FAULTS
                if options.only in fault.name and (not fault.works or work.name in fault.works)
            ]
            quiet = {}
            for number in range(1_000_000):
                if number % len(pairs) == 0:
                    random.Random(f"{options.seed}-{number}").shuffle(pairs)
                if time.monotonic() > end:
                    break
                work, fault = pairs[number % len(pairs)]
                kind = "training" if work.name == "training" else "screen"
                if kind not in quiet:
                    quiet[kind] = undisturbed(work, folder / f"quiet-{kind}")
                began = time.monotonic()
                place = folder / f"{number:04d}"
                try:
                    verdict = run_trial(work, fault, f"{options.seed}-{number}", place, quiet[kind])
                except OSError as error:
                    verdict = f"skipped: {error}"
                table[f"{work.name:9} {fault.name}"][verdict] += 1
                print(
                    f"{number:4} {work.name:9} {fault.name:24} {verdict}  ({time.monotonic() - began:.0f} s)",
                    flush=True,
                )
                shutil.rmtree(place, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print()
    for name, verdicts in sorted(table.items()):
        print(f"{name:36}" + ", ".join(f"{verdict} {count}" for verdict, count in verdicts.items()))
    bad = sum(
        n for found in table.values() for verdict, n in found.items() if not verdict.startswith(("survived", "skipped"))
    )
    print(f"{sum(found.total() for found in table.values())} faults, {bad} not survived")
    return int(bad > 0)


def undisturbed(work: Work, place: Path) -> object:
    """The result of a work that nobody disturbs, computed in its own process."""
    import subprocess  # only here

    place.mkdir()
    done = subprocess.run(work.command(place / "out"), env=work.env, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(f"{work.name} fails undisturbed: {done.stderr[-500:]}")
    return work.result(place / "out")


if __name__ == "__main__":
    sys.exit(main())
