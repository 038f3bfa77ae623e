"""One case: a copy of some files, one of them damaged, the command that reads it in a process of its own, and a verdict.

A case is a pure function of kind, seed and number. Its process is forked from one that has everything imported and has
computed nothing, may use so much memory and time, and writes what it found to a file.
"""

import hashlib
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .damage import Damage
from .kinds import Kind

MEMORY = 9 << 30  # bytes of address space; an import of torch takes half of it
PROCESSOR = 60  # seconds; a case takes one
PATIENCE = 600  # seconds by the clock: a hopeless case
GOOD = ("right", "refused")
VERDICTS = (*GOOD, "wrong", "not finite", "not in a line", "traceback", "leftover", "crash", "hang", "executed")
EXECUTED = "executed"  # a file that the pickles among the damage would make


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a case: one of VERDICTS, what had been done, the last words of the command."""

    verdict: str
    done: str
    said: str


def damaged(kind: Kind, folder: Path, rng: random.Random) -> tuple[str, bool]:
    """Damage one of the files in the folder; what was done, and whether it is harmless."""
    files = sorted({file for pattern in kind.files for file in folder.glob(pattern) if file.is_file()})
    file = rng.choice(files)
    harmless = bool(kind.harmless) and rng.random() < 0.2
    damage: Damage = rng.choice(kind.harmless if harmless else kind.damages)
    return f"{file.relative_to(folder)}: {damage(rng, file)}", harmless


def run_case(kind: Kind, base: Path, folder: Path, case: str, truth: str | None) -> Found:
    """Damage, read, judge. truth: digest of the answer without damage; None to find it. The folder is gone at the end."""
    rng = random.Random(f"{kind.name} {case}")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    for name in kind.needs:
        (shutil.copytree if (base / name).is_dir() else shutil.copy)(base / name, folder / name)
    done, harmless = ("nothing", True) if truth is None else damaged(kind, folder, rng)
    outcome = _in_a_process(kind, folder)
    log = folder / "said"
    said = log.read_text(errors="replace") if log.exists() else ""
    verdict = verdict_of(kind, folder, outcome, said, truth, harmless)
    shutil.rmtree(folder, ignore_errors=True)
    return Found(verdict, done, outcome["digest"] if truth is None and "digest" in outcome else said[-400:])


def _in_a_process(kind: Kind, folder: Path) -> dict[str, Any]:
    """{code, digest, finite}, {error} of what was raised, {signal} or {hang}."""
    child = os.fork()
    if child == 0:
        _compute(kind, folder)
    began = time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - began > PATIENCE:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"hang": PATIENCE}
        time.sleep(0.005)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return {"hang": PROCESSOR} if number == signal.SIGXCPU else {"signal": signal.Signals(number).name}
    found = folder / "found.json"
    return dict(json.loads(found.read_text())) if found.exists() else {"signal": f"exit {os.WEXITSTATUS(status)}"}


def _compute(kind: Kind, folder: Path) -> None:
    """In the child: the command, its answer, and the end of the process."""
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        os.environ["TMPDIR"] = str(folder / "tmp")
        log = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR, PROCESSOR + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            outcome = _outcome(kind, folder)
        except BaseException as error:
            traceback.print_exc()
            outcome = {"error": repr(error)[:300]}
        sys.stdout.flush()
        sys.stderr.flush()
        (folder / "found.json").write_text(json.dumps(outcome))
    finally:
        os._exit(0)


def _outcome(kind: Kind, folder: Path) -> dict[str, Any]:
    from rankshift.jobs.cli import run_command

    code = run_command([str(word) for word in kind.command(folder)])
    if code:
        return {"code": code}
    answer = kind.answer(folder)
    return {"code": 0, "digest": hashlib.sha256(repr(answer).encode()).hexdigest(), "finite": finite(answer)}


def finite(answer: Any) -> bool:
    """Are all numbers in it finite?"""
    if isinstance(answer, list | tuple):
        return all(finite(value) for value in answer)
    return not isinstance(answer, float) or math.isfinite(answer)


def verdict_of(kind: Kind, folder: Path, outcome: dict[str, Any], said: str, truth: str | None, harmless: bool) -> str:
    if (folder / EXECUTED).exists():
        return "executed"
    for name in ("hang", "signal"):
        if name in outcome:
            return "hang" if name == "hang" else "crash"
    if "error" in outcome or "Traceback" in said:
        return "traceback"
    if _leftovers(folder):
        return "leftover"
    if outcome["code"] == 2:
        told = [line for line in said.splitlines() if line.startswith(("rankshift: ", "Error: "))]
        if len(told) != 1:
            return "not in a line"
        return "wrong" if harmless else "refused"
    if outcome["code"]:
        return "wrong"
    if not outcome["finite"]:
        return "not finite"
    must_be_same = truth is not None and (harmless or kind.sealed)
    return "wrong" if must_be_same and outcome["digest"] != truth else "right"


def _leftovers(folder: Path) -> list[Path]:
    """Temporary files: in the temporary folder, or hidden beside what was written."""
    return [*(folder / "tmp").iterdir(), *(p for p in folder.rglob(".*") if ".tmp" in p.name or ".old" in p.name)]
