"""The driver's loop with workers that only wait: shards per second, what a shard costs the driver, how long workers idle.

    python -m benchmarks.fanout [--workers 10,100,1000] [--seconds 2] [--call-ms 0.35] [--for 20]

The loop is the real one; its workers are entries of a heap, and Ray is what it costs: every call to a worker takes the
processor time that a call of Ray takes. That is an assumption about Ray, measured for docs/scale.md, and not Ray itself.
"""

import argparse
import heapq
import random
import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from rankshift.jobs.executor.fan_out import FanOut
from rankshift.jobs.pool.worker import Answer, Grant, Job

SPREAD = 0.2  # shards take between 1 - SPREAD and 1 + SPREAD of the mean


class Waiting:
    """A crew whose workers wait instead of computing. seconds: of a shard; call: processor seconds of a call to a worker.

    A worker computes its pieces one after the other. silent: workers that never answer a question for progress.
    """

    def __init__(self, workers: int, seconds: float, call: float = 0.0, *, ahead: int = 2, silent: int = 0) -> None:
        self.ahead, self._seconds, self._call = ahead, seconds, call
        self._grants = [Grant(f"worker-{i}", None, 1) for i in range(workers)]
        self._asleep = {grant.worker for grant in self._grants[:silent]}
        self._asked = False
        self._ends: list[tuple[float, int]] = []  # when calls end, soonest first
        self._free: dict[Grant, float] = {}  # when a worker has done all it was sent
        self._steps: dict[Grant, int] = dict.fromkeys(self._grants, 0)
        self._owner: dict[int, Grant | None] = {}
        self._calls, self._random = 0, random.Random(0)
        self.idle = self.busy = 0.0  # seconds of workers without and with a piece, from their first to their last
        self.questions = 0

    def ask(self) -> int:
        """The workers are there at once; asked again, the question stays open."""
        if self._asked:
            return 0
        self._asked = True
        heapq.heappush(self._ends, (time.perf_counter(), 0))
        return 0

    def granted(self, call: int) -> list[Grant]:
        """All workers."""
        return self._grants

    def open(self, grant: Grant, key: str, job: Job) -> int:
        """Opening takes no time."""
        return self._begin(None, time.perf_counter())

    def compute(self, grant: Grant, key: str, piece: Any) -> int:
        """A piece begins when the one before has ended."""
        now = time.perf_counter()
        began = max(now, self._free.get(grant, now))
        self.idle += began - self._free.get(grant, began)
        takes = self._seconds * self._random.uniform(1 - SPREAD, 1 + SPREAD)
        self.busy += takes
        self._free[grant] = began + takes
        return self._begin(grant, self._free[grant])

    def _begin(self, grant: Grant | None, end: float) -> int:
        self._spend()
        self._calls += 1
        self._owner[self._calls] = grant
        heapq.heappush(self._ends, (end, self._calls))
        return self._calls

    def _spend(self) -> None:
        """What a call costs the driver."""
        until = time.process_time() + self._call
        while time.process_time() < until:
            continue

    def wait(self, calls: Collection[int], seconds: float) -> list[int]:
        """All that have ended."""
        now = time.perf_counter()
        if self._ends and self._ends[0][0] > now:
            time.sleep(min(self._ends[0][0] - now, seconds))
            now = time.perf_counter()
        ended = []
        while self._ends and self._ends[0][0] <= now:
            ended.append(heapq.heappop(self._ends)[1])
        return ended

    def result(self, call: int) -> Answer | None:
        """One step a piece."""
        grant = self._owner.pop(call)
        if grant is None:
            return None
        self._steps[grant] += 1
        return Answer(self._steps[grant], None)

    def progress(self, grants: Iterable[Grant]) -> dict[Grant, int]:
        """Every question is a call."""
        found = {}
        for grant in grants:
            self._spend()
            self.questions += 1
            if grant.worker not in self._asleep:
                found[grant] = self._steps[grant]
        return found

    def gone(self, grant: Grant) -> bool:
        """They stay."""
        return False

    def release(self, grant: Grant, *, suspect: bool = False) -> None:
        """Nobody else wants it."""

    def should_yield(self, grant: Grant) -> bool:
        """Nobody waits."""
        return False


class Numbers:
    """Work whose pieces are numbers."""

    job: Any = None

    def __init__(self, count: int) -> None:
        self.todo, self.kept = deque(range(count)), set[int]()

    def piece(self, number: int) -> int:
        """The number."""
        return number

    def keep(self, number: int, result: Any) -> None:
        """Count it."""
        self.kept.add(number)

    def survived(self, number: int) -> bool:
        """Nothing dies here."""
        return False

    def name(self, number: int) -> str:
        """For errors."""
        return str(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one size measured. driver_ms: processor time of the driver a shard; busy: share of the workers' time."""

    workers: int
    shards: int
    shards_per_s: float
    driver_ms: float
    busy: float
    questions: int


def measure(workers: int, seconds: float, rounds: int, *, call: float = 0.0, ahead: int = 2, silent: int = 0) -> Load:
    """Drive `rounds` shards a worker of about so many seconds each."""
    crew, work = Waiting(workers, seconds, call, ahead=ahead, silent=silent), Numbers(workers * rounds)
    steps: list[int] = []
    began, spent = time.perf_counter(), time.process_time()
    FanOut(crew, work).drive(steps.append)
    took, spent = time.perf_counter() - began, time.process_time() - spent
    if len(work.kept) != workers * rounds or sum(steps) != workers * rounds:
        raise RuntimeError(f"{len(work.kept)} shards and {sum(steps)} steps of {workers * rounds} came back")
    return Load(
        workers=workers,
        shards=workers * rounds,
        shards_per_s=workers * rounds / took,
        driver_ms=1000 * spent / (workers * rounds),
        busy=crew.busy / (crew.busy + crew.idle),
        questions=crew.questions,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fanout", description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="10,100,1000", help="sizes, separated by commas")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a shard")
    parser.add_argument("--call-ms", type=float, default=0.35, help="processor time of a call to a worker")
    parser.add_argument("--ahead", type=int, default=2, help="pieces that a worker has at once")
    parser.add_argument("--silent", type=int, default=0, help="workers that never answer")
    parser.add_argument("--for", type=float, default=20.0, dest="duration", help="seconds of shards for every worker")
    args = parser.parse_args()
    print(f"{'workers':>8} {'shards':>8} {'shards/s':>9} {'driver ms/shard':>16} {'busy':>7} {'questions/shard':>16}")
    for workers in map(int, args.workers.split(",")):
        rounds = max(2, round(args.duration / args.seconds))
        load = measure(workers, args.seconds, rounds, call=args.call_ms / 1000, ahead=args.ahead, silent=args.silent)
        print(
            f"{load.workers:8d} {load.shards:8d} {load.shards_per_s:9.1f} {load.driver_ms:16.3f} {load.busy:7.1%} "
            f"{load.questions / load.shards:16.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
