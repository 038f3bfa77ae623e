"""Damaged files of every kind that the product reads, as many as are wanted, and a table of what came of them.

    python -m tests.fuzz --n 3000 --seed 1 [--kinds WORDS]      cases of all kinds in turn, or of those that hold the words
    python -m tests.fuzz --kinds states --seed 1 --case 17      one case again, with what the command said

docs/testing.md says what each verdict means. The exit code is 0 where every case was right or refused in a line.
"""

import argparse
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
os.environ.update(OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0", COLUMNS="200")

from .kinds import KINDS, Kind  # noqa: E402
from .trial import GOOD, VERDICTS, Found, run_case  # noqa: E402
from .valid import make_base  # noqa: E402


def warm() -> None:
    """Import what commands import, so that a case begins at once. Nothing is computed: threads do not outlive a fork."""
    import anndata  # noqa: F401
    import duckdb  # noqa: F401
    import numba  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch

    import rankshift.jobs.cli
    import rankshift.jobs.verbs.query
    import rankshift.jobs.verbs.screen
    import rankshift.screen.engine.screener
    import rankshift.screen.tokenizer.source  # noqa: F401

    torch.set_num_threads(1)


def base_at(folder: Path) -> None:
    """The valid files, made in a process of its own, because it computes."""
    child = os.fork()
    if child == 0:
        try:
            make_base(folder)
            os._exit(0)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the valid files could not be made")


def main() -> int:
    """Cases one after the other; the exit code says whether all were right or refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="", help="kinds whose name holds these words")
    parser.add_argument("--case", type=int, help="this case alone")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if options.kinds in kind.name]
    if not kinds:
        parser.error(f"no kind holds {options.kinds!r}: use one of {', '.join(kind.name for kind in KINDS)}")
    table: dict[str, Counter[str]] = defaultdict(Counter)
    bad: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="rankshift-fuzz-"))
    try:
        warm()
        base_at(folder / "base")
        truths = {kind.name: truth_of(kind, folder) for kind in kinds}
        numbers = range(options.n // len(kinds) + 1) if options.case is None else [options.case]
        todo = [(kind, number) for number in numbers for kind in kinds][: options.n]
        for count, (kind, number) in enumerate(todo, 1):
            found = run_case(kind, folder / "base", folder / "case", f"{options.seed}-{number}", truths[kind.name])
            table[kind.name][found.verdict] += 1
            if options.case is not None:
                print(f"{kind.name}, {found.done}: {found.verdict}\n{found.said}")
            if found.verdict not in GOOD:
                again = f'--kinds "{kind.name}" --seed {options.seed} --case {number}'
                bad.append(f"{found.verdict}: {again}: {found.done}\n    {found.said.strip().splitlines()[-1:]}")
                print(bad[-1], flush=True)
            if count % 100 == 0:
                print(f"{count} of {len(todo)}, {len(bad)} neither right nor refused", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(table, bad)
    return bool(bad)


def truth_of(kind: Kind, folder: Path) -> str:
    """Digest of the answer without damage. Raises RuntimeError where there is none: the harness itself is wrong."""
    found: Found = run_case(kind, folder / "base", folder / "case", "undamaged", None)
    if found.verdict != "right":
        raise RuntimeError(f"{kind.name} undamaged: {found.verdict}: {found.said}")
    return found.said


def report(table: dict[str, Counter[str]], bad: list[str]) -> None:
    """Kinds by verdicts."""
    seen = [verdict for verdict in VERDICTS if verdict in GOOD or any(row[verdict] for row in table.values())]
    print("\n" + f"{'kind':24}" + "".join(f"{verdict:>15}" for verdict in seen))
    for name, row in table.items():
        print(f"{name:24}" + "".join(f"{row[verdict] or '':>15}" for verdict in seen))
    total = sum(sum(row.values()) for row in table.values())
    print(f"{len(bad)} of {total} cases neither right nor refused in a line")


if __name__ == "__main__":
    sys.exit(main())
