"""The loop with many workers that only wait: it asks them little, and whoever never answers costs nothing."""

import time

import pytest

from benchmarks.fanout import Numbers, Waiting, measure
from rankshift.jobs.executor.fan_out import FanOut
from rankshift.jobs.pool.worker import Grant


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [1, 2])
def test_all_shards_of_many_workers_come_back_with_their_steps(ahead):
    """`measure` raises where a shard or a step is missing. A shard of a fifth of LOOK: hardly anybody has to be asked."""
    load = measure(200, 0.05, 4, ahead=ahead)
    assert load.shards == 800
    assert load.questions <= 2 * 200


def test_workers_that_never_answer_are_not_waited_for():
    assert measure(50, 0.02, 3, silent=50).shards == 150


class Hanging(Waiting):
    """A crew whose first worker stops for good at its first piece, and does not answer. Others that were given back are lent
    again."""

    def __init__(self, workers: int, seconds: float) -> None:
        super().__init__(workers, seconds, silent=1)
        self._idle = list(self._grants)

    def ask(self) -> int:
        self._asked = False
        return super().ask()

    def granted(self, call: int) -> list[Grant]:
        some, self._idle = self._idle, []
        return some

    def release(self, grant: Grant, *, suspect: bool = False) -> None:
        if not suspect:
            self._idle.append(grant)

    def compute(self, grant: Grant, key: str, piece: object) -> int:
        if grant.worker != "worker-0":
            return super().compute(grant, key, piece)
        self._calls += 1
        return self._calls  # which never ends


@pytest.mark.slow
def test_a_worker_that_hangs_is_told_and_its_pieces_go_to_others():
    crew, work, said = Hanging(3, 0.01), Numbers(40), []
    FanOut(crew, work, say=said.append, hung=0.3).drive()
    assert work.kept == set(range(40))
    assert said == ["worker-0 has not answered for 0 s: its work is given to others"]


class Vanishing(Hanging):
    """A crew whose first worker was on a host that is gone."""

    def gone(self, grant: Grant) -> bool:
        return grant.worker == "worker-0"


@pytest.mark.slow
def test_pieces_of_a_worker_whose_host_vanished_go_to_others_at_once():
    crew, work, said = Vanishing(3, 0.01), Numbers(40), []
    FanOut(crew, work, say=said.append, hung=3600).drive()
    assert work.kept == set(range(40))
    assert said == ["the host of worker-0 does not answer: its work is given to others"]


class HangingAtOnce(Hanging):
    """A crew of one worker, which stops while it opens the job; another one takes its place when it was given up."""

    def __init__(self) -> None:
        super().__init__(2, 0.01)
        self._second = self._idle.pop()

    def granted(self, call: int) -> list[Grant]:
        time.sleep(0.01)  # as an empty answer of a pool takes
        return super().granted(call)

    def open(self, grant: Grant, key: str, job: object) -> int:
        if grant.worker != "worker-0":
            return super().open(grant, key, job)
        self._calls += 1
        return self._calls  # which never ends

    def release(self, grant: Grant, *, suspect: bool = False) -> None:
        super().release(grant, suspect=suspect)
        if suspect:
            self._idle.append(self._second)


@pytest.mark.slow
def test_a_worker_that_hangs_while_it_opens_the_job_is_given_up_as_well():
    crew, work, said = HangingAtOnce(), Numbers(5), []
    FanOut(crew, work, say=said.append, hung=0.2).drive()
    assert work.kept == set(range(5))
    assert said == ["worker-0 has not answered for 1 s: its work is given to others"]
