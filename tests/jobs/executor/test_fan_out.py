"""The loop with many workers that only wait: it asks them little, and whoever never answers costs nothing."""

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
