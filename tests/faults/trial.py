"""One trial: a work, a moment at which a process stands, what happens to it then, the end, the resume, and the verdict."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import Halt, alive, family, until

from .works import PATIENCE, Work

LAST = 100.0  # seconds for the last process: agents of Ray whose driver was killed look for its head for a minute
STOPPED = 3.0  # seconds that a process is stopped for


@dataclass
class Trial:
    """What a fault finds: the driver, who stands at the mark, the folder that is written, and what is to be said of it."""

    work: Work
    out: Path
    rng: random.Random
    driver: subprocess.Popen
    standing: int
    halt: Halt
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """What is there while it is computed."""
        return self.work.folder(self.out)

    def signal(self, process: int, number: int) -> None:
        """Send a signal, and let who stands go on, so that it is delivered."""
        os.kill(process, number)
        self.go_on()

    def go_on(self) -> None:
        """Let who stands go on."""
        self.halt.lift()
        with suppress(ProcessLookupError):
            os.kill(self.standing, signal.SIGCONT)


@dataclass(frozen=True)
class Fault:
    """Something that happens. codes: exit codes that may follow. works: the kinds of work it can happen to, all if empty."""

    name: str
    do: Callable[[Trial], None]
    codes: tuple[int, ...]
    works: tuple[str, ...] = ()
    disk: bool = False  # it needs a small file system


def _kill(trial: Trial) -> None:
    trial.signal(trial.standing, signal.SIGKILL)


def _kill_driver(trial: Trial) -> None:
    trial.driver.kill()
    trial.go_on()


def _signal(number: int, times: int = 1) -> Callable[[Trial], None]:
    def do(trial: Trial) -> None:
        for _ in range(times):
            os.kill(trial.driver.pid, number)
        trial.go_on()

    return do


def _stop(trial: Trial) -> None:
    time.sleep(STOPPED)  # it stands at the mark
    trial.go_on()


def _delete(trial: Trial) -> None:
    shutil.rmtree(trial.folder)
    trial.go_on()


def _move(trial: Trial) -> None:
    trial.folder.rename(trial.folder.with_name("moved"))
    trial.go_on()
    trial.driver.wait(PATIENCE)
    trial.said["resurrected"] = trial.folder.exists()
    if not trial.folder.exists():
        trial.folder.with_name("moved").rename(trial.folder)


def _lose(where: str) -> Callable[[Trial], None]:
    def do(trial: Trial) -> None:
        trial.rng.choice(sorted(trial.folder.glob(where))).unlink()
        trial.go_on()

    return do


def _fill(trial: Trial) -> None:
    """What is left of the disk is taken by one file, which the trial removes."""
    with (trial.out.parent / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    trial.go_on()


def _forbid(trial: Trial) -> None:
    """The disk becomes read-only, which the system refuses while another worker has a file of it open."""
    remount = ["mount", "-o", "remount,ro", trial.out.parent]
    with suppress(AssertionError):
        until(lambda: subprocess.run(remount, capture_output=True).returncode == 0, 30)
    trial.go_on()


SCREENS = ("alone", "private", "pool", "job")
FAULTS = [
    Fault("a worker is killed", _kill, (0,), ("private", "pool", "job")),
    Fault("the driver is killed", _kill_driver, (-signal.SIGKILL,), ("alone", "private", "pool", "training")),
    Fault("SIGTERM", _signal(signal.SIGTERM), (3,), ("alone", "private", "pool", "training")),
    Fault("Ctrl-C", _signal(signal.SIGINT), (3,), ("alone", "private", "pool", "training")),
    Fault("Ctrl-C twice", _signal(signal.SIGINT, 2), (3,), ("alone", "private", "pool")),
    Fault("stopped for a while", _stop, (0,)),
    Fault("the folder is deleted", _delete, (2,), SCREENS),
    Fault("the folder is moved", _move, (2,), SCREENS),
    Fault("a part is lost", _lose("shifts/shard-*.parquet"), (0, 2), SCREENS),
    Fault("a marker is lost", _lose("commits/shard-*.json"), (0,), SCREENS),
    Fault("the disk is full", _fill, (2,), disk=True),
    Fault("the disk is read-only", _forbid, (2,), disk=True),
]


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of its own, of 8 MB. Raises OSError where none can be mounted."""
    place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True).returncode:
        raise OSError("no file system can be mounted here: be root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def run_trial(work: Work, fault: Fault, seed: str, folder: Path, quiet: Any) -> str:
    """What came of it: survived, or what did not hold. quiet: the result of a work that nobody disturbed."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        place = stack.enter_context(small_disk(folder)) if fault.disk else folder
        place.mkdir(exist_ok=True)
        out = place / "out"
        halt = Halt(work.place(out, rng))
        driver = _start(work, out, place)
        family_then = {driver.pid}
        try:
            standing = _standing(halt, driver)
            if standing is None:
                return f"missed: it ended with {driver.returncode} before"
            trial = Trial(work, out, rng, driver, standing, halt)
            family_then = family(driver.pid)
            fault.do(trial)
            code = driver.wait(PATIENCE)
            bad = _wrong_end(fault, code, (place / "said").read_text(), trial)
            bad += [f"{len(left)} processes"] if (left := _left(family_then)) else []
            if fault.disk:
                subprocess.run(["mount", "-o", "remount,rw", place], check=True)
                (place / "ballast").unlink(missing_ok=True)
            bad += _resumed(work, out, place, quiet)
            return "; ".join(bad) or "survived"
        finally:
            halt.lift()
            for process in alive(family_then):
                os.kill(process, signal.SIGKILL)


def _standing(halt: Halt, driver: subprocess.Popen) -> int | None:
    """The process at the mark; None where the driver ended before one was there."""
    while driver.poll() is None:
        if (process := halt.standing()) is not None:
            return process
        time.sleep(0.02)
    return None


def _start(work: Work, out: Path, place: Path) -> subprocess.Popen:
    log = place.parent / f"{place.name}.log"
    with log.open("w") as said:
        link = place / "said"
        link.unlink(missing_ok=True)
        link.symlink_to(log)  # beside the disk that is full
        return subprocess.Popen(work.command(out), env=work.env, stdout=said, stderr=said)


def _wrong_end(fault: Fault, code: int, said: str, trial: Trial) -> list[str]:
    late = work_ends(trial) and code == 0
    bad = [] if code in fault.codes or late else [f"exit code {code}"]
    if "Traceback" in said:
        bad.append("traceback")
    if code in (2, 3) and len([line for line in said.splitlines() if line.startswith("rankshift: ")]) != 1:
        bad.append("not told in one line")
    if trial.said.get("resurrected"):
        bad.append("came back half")
    if fault.name == "the folder is deleted" and trial.folder.exists():
        bad.append("came back")
    return bad


def work_ends(trial: Trial) -> bool:
    """A training that has done its last step is asked nothing any more: its bundle is written."""
    return trial.work.name == "training" and trial.out.exists()


def _left(processes: set[int]) -> set[int]:
    """Those that are still there after LAST seconds."""
    end = time.monotonic() + LAST
    while (left := alive(processes)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _resumed(work: Work, out: Path, place: Path, quiet: Any) -> list[str]:
    """Give the command again, and compare: values, temporary files."""
    code = 0
    if not out.exists() or work.folder(out) == out:
        code = _start(work, out, place).wait(PATIENCE)
    if code:
        return [f"resume has exit code {code}"]
    found = work.result(out)
    bad = [] if (found.equals(quiet) if hasattr(found, "equals") else found == quiet) else ["different"]
    left = [path.name for path in place.rglob(".*") if path.name.endswith((".tmp", ".scratch", ".old"))]
    return bad + ([f"left {left[0]}"] if left else [])
