"""The fan-out with workers in threads: it fails, retries, yields and stops here as it does on a cluster, in milliseconds."""

import threading
from collections import deque

import pytest

from rankshift.jobs.executor.fan_out import TRIES, FanOut
from rankshift.jobs.executor.local import Local, ThreadCrew, Threads
from rankshift.jobs.executor.registry import executor
from rankshift.jobs.executor.shard_work import fan_out
from rankshift.jobs.pool.worker import Answer, HeldBack, StaleLease, Worker, WorkerDied
from rankshift.jobs.training.gang import Rank
from rankshift.screen.bundle.bundle import Bundle
from rankshift.screen.engine.options import Options
from rankshift.screen.engine.prepare import prepare
from rankshift.screen.engine.screener import Screener, run
from rankshift.screen.errors import InputError, Interrupted
from rankshift.screen.runs.run import Run
from support import GOLDEN, ROWS, SCREEN


class Squares:
    """Work whose pieces are squared; `before(number)` is called by the worker first, and may raise."""

    weights_sha256 = None

    def __init__(self, count: int, before=lambda number: None, opening=lambda: None) -> None:
        self.todo, self.job = deque(range(count)), self
        self.found: dict[int, int] = {}
        self.opened: list[str] = []  # threads in which the job was opened
        self.committed: set[int] = set()
        self._before, self._opening = before, opening

    def open(self, models, fetch):
        self._opening()
        self.opened.append(threading.current_thread().name)

        def compute(number: int, count) -> int:
            self._before(number)
            count(1)
            return number**2

        return compute

    def piece(self, number: int) -> int:
        return number

    def keep(self, number: int, result: int) -> None:
        assert number not in self.found
        self.found[number] = result

    def survived(self, number: int) -> bool:
        return number in self.committed

    def name(self, number: int) -> str:
        return f"the square of {number}"


@pytest.fixture(params=[1, 2], ids=["one-by-one", "one-ahead"])
def ahead(request, monkeypatch) -> int:
    """Pieces that a worker has at once: threads take one by one, workers of a cluster have one waiting."""
    monkeypatch.setattr(ThreadCrew, "ahead", request.param)
    return request.param


def squares(count: int) -> dict[int, int]:
    return {n: n * n for n in range(count)}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_piece_is_done_once_and_every_step_is_reported(workers, ahead):
    work, steps = Squares(20), []
    with Local(workers) as here:
        here.map(work, steps.append)
    assert work.found == squares(20)
    assert sum(steps) == 20


def test_a_worker_that_dies_comes_back_knowing_nothing_and_its_piece_is_done_again(ahead):
    died = []

    def die_once(number: int) -> None:
        if number == 3 and not died:
            died.append(number)
            raise WorkerDied("its process is gone")

    work = Squares(6, die_once)
    with Local(1) as here:
        here.map(work)
    assert work.found == squares(6)
    assert died == [3]
    assert len(work.opened) == 2  # before the death, and by what came in its place


def test_the_last_piece_may_lose_the_last_worker(ahead):
    """Nothing is left to ask workers for while it runs, so its death must make the loop ask again."""
    died, alone = [], threading.Event()

    def die_once(number: int) -> None:
        if number == 0 and not died:
            assert alone.wait(30)  # the other pieces are done, and their worker was given back
            died.append(number)
            raise WorkerDied("its process is gone")
        if number == 5:
            alone.set()

    work = Squares(6, die_once)
    with Local(2) as here:
        here.map(work)
    assert work.found == squares(6)
    assert died == [0]


def test_a_piece_that_was_committed_before_its_worker_died_is_not_done_again(ahead):
    tries = []

    def commit_and_die(number: int) -> None:
        tries.append(number)
        if number == 2:
            work.committed.add(2)
            raise WorkerDied("after the commit, before the answer")

    work = Squares(4, commit_and_die)
    with Local(1) as here:
        here.map(work)
    assert tries == [0, 1, 2, 3]
    assert work.found == {0: 0, 1: 1, 3: 9}


def test_a_piece_that_kills_its_workers_ends_the_loop_and_is_named(ahead):
    def die(number: int) -> None:
        if number == 1:
            raise WorkerDied("out of memory")

    message = r"the square of 1 lost its worker, 3 times \(out of memory\): .* --resume"
    with Local(2) as here, pytest.raises(Interrupted, match=message):
        here.map(Squares(3, die))


def test_workers_that_die_while_they_open_the_work_end_the_loop(ahead):
    opened = []

    def die() -> None:
        opened.append(1)
        raise WorkerDied("no such library")

    with Local(1) as here, pytest.raises(Interrupted, match="workers die while they open it, 3 times"):
        here.map(Squares(3, opening=die))
    assert len(opened) == TRIES


def test_an_error_of_a_piece_is_raised_as_it_is_and_not_tried_again():
    tries = []

    def fail(number: int) -> None:
        tries.append(number)
        raise InputError("13 is too many: give 12")

    with Local(1) as here, pytest.raises(InputError, match="13 is too many"):
        here.map(Squares(5, fail))
    assert tries == [0]


def test_two_drivers_share_one_worker_and_neither_loses_a_piece(ahead):
    threads, begun = Threads(1), threading.Event()
    first, second = Squares(20, lambda number: begun.set()), Squares(20)

    def drive() -> None:
        assert begun.wait(30)
        with threads.lease(1) as crew:
            FanOut(crew, second).drive()

    other = threading.Thread(target=drive)
    other.start()
    with threads.lease(1) as crew:
        FanOut(crew, first).drive()
    other.join()
    threads.close()
    assert first.found == second.found == squares(20)


def test_a_lease_that_holds_more_than_its_share_yields():
    """Two workers held by one lease, and another asks: one is given back at the next boundary, not both."""
    threads = Threads(2)
    with threads.lease(2) as rich:
        (one, two) = rich.granted(rich.ask())
        assert not rich.should_yield(one)
        with threads.lease(2) as poor:
            question = poor.ask()
            assert rich.should_yield(one)
            assert rich.wait([question], 0) == []
            rich.release(one)
            (granted,) = poor.granted(question)
            assert granted.worker == one.worker
            assert not rich.should_yield(two)
            with pytest.raises(StaleLease, match="was lent again"):
                rich.compute(one, "any", 0).result()
        rich.release(two)
    threads.close()


def test_a_suspect_worker_is_in_quarantine_until_what_it_does_has_ended():
    threads, going, go_on = Threads(1), threading.Event(), threading.Event()

    def hang(number: int) -> None:
        going.set()
        assert go_on.wait(30)

    with threads.lease(1) as crew:
        (grant,) = crew.granted(crew.ask())
        crew.open(grant, "hangs", Squares(1, hang))
        running = crew.compute(grant, "hangs", 0)
        assert going.wait(30)
        crew.release(grant, suspect=True)
        question = crew.ask()
        assert crew.wait([question], 0) == []
        go_on.set()
        (again,) = crew.granted(question)
        assert again.epoch > grant.epoch
        with pytest.raises(StaleLease, match="was lent to another"):  # it noticed at its first sign of progress
            crew.result(running)
    threads.close()


def test_ctrl_c_in_the_driver_ends_the_workers_at_their_next_sign_of_progress():
    done = []

    def press(steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Local(1) as here:
        here.map(Squares(1000, done.append), press)
    assert len(done) < 1000


def test_a_function_is_called_where_the_workers_are():
    with Local(0) as here:
        assert here.call(lambda _: threading.current_thread().name, None).startswith("thread-0")


def test_a_call_whose_worker_dies_is_made_again():
    calls = []

    def twice(argument: int) -> int:
        calls.append(argument)
        if len(calls) < 2:
            raise WorkerDied("gone")
        return argument + 1

    with Local(1) as here:
        assert here.call(twice, 41) == 42
    assert calls == [41, 41]


def test_a_training_runs_in_the_calling_thread():
    def train(rank: Rank, job: str, report) -> dict:
        report(3)
        return {"job": job, "rank": rank, "thread": threading.current_thread().name}

    with Local(1) as here:
        assert here.train(train, "job", 3) == {"job": "job", "rank": Rank(), "thread": threading.current_thread().name}


def test_a_gang_of_threads_is_refused():
    with Local(2) as here, pytest.raises(InputError, match="2 workers needs processes of its own"):
        here.train(lambda rank, job, report: {}, None, 1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_screen_by_threads_has_the_rows_of_one_in_this_process(workers, bundles, tmp_path):
    expected = run(GOLDEN / "v1/cells.parquet", bundles["v1"], tmp_path / "alone", **SCREEN)
    opened = Bundle.open(bundles["v1"])
    place = prepare(GOLDEN / "v1/cells.parquet", opened, tmp_path / "run", Options(**SCREEN)).path
    rows = []
    with executor(workers, name="local") as here:
        fan_out(Screener.open(place, opened), bundles["v1"], here, rows.append)
    done = Run.open(place)
    assert done.sql(ROWS).equals(expected.sql(ROWS))
    assert done.manifest["noise_floor"] == expected.manifest["noise_floor"]
    assert sum(rows) == expected.sql(ROWS).num_rows


def test_a_piece_that_waits_behind_a_killer_is_not_blamed(ahead):
    """Piece 0 kills its worker twice and then goes well; what waited behind it lost its worker as often."""
    killed, done = [], []

    def before(number: int) -> None:
        if number == 0 and len(killed) < TRIES - 1:
            killed.append(number)
            raise WorkerDied("out of memory")
        done.append(number)

    work = Squares(5, before)
    with Local(1) as here:
        here.map(work)
    assert work.found == squares(5)
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_a_worker_holds_back_what_was_sent_before_its_driver_was_asked_to_give_it_back():
    worker = Worker("worker")
    worker.open(7, "key", Squares(3))
    assert worker.compute(7, "key", 2) == Answer(1, 4)
    worker.hold(7, 1)
    with pytest.raises(HeldBack, match="to be given back"):
        worker.compute(7, "key", 1)
    assert worker.compute(7, "key", 1, 1) == Answer(2, 1)
    worker.hold(6, 5)  # of a lease that is over
    assert worker.compute(7, "key", 2, 1).result == 4
    worker.open(8, "other", Squares(3))
    assert worker.compute(8, "other", 2).result == 4
