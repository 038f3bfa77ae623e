"""The driver's side of a lease: it asks the pool for workers, tells it that the driver lives, and gives workers back."""

import getpass
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from rankshift.jobs.pool.code_version import code_version
from rankshift.jobs.pool.connection import GONE, LOST, STOPPED, Hosts, answered, lost, silent
from rankshift.jobs.pool.worker import Grant, HeldBack, StaleLease, WorkerDied
from rankshift.screen.errors import InputError, Interrupted, Stopped, TrainingFailed

HEARTBEATS = 5  # in a time to live
PLAIN = (
    InputError,
    Interrupted,
    Stopped,
    TrainingFailed,
    HeldBack,
    StaleLease,
    WorkerDied,
    OSError,
)  # they need no trace of Ray's
SILENT = 5  # empty answers, two seconds each, before the user is told what is waited for


class Lease:
    """Up to `want` workers of a pool, or a gang of exactly as many, until the block ends. say: hears what is waited for."""

    def __init__(
        self,
        pool: Any,
        want: int,
        *,
        gang: bool = False,
        what: str = "",
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        host = f"{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}"
        self.name = f"{what} {host} {uuid.uuid4().hex[:4]}".strip()
        self.want, self.gang = want, gang
        self._pool, self._say, self._ended = pool, say, threading.Event()
        self._asked: ray.ObjectRef | None = None
        self._waited, self._served = 0, False
        self._fault: str | None = None
        self._hosts = Hosts()
        self.ttl = self._open()
        self._heart = threading.Thread(target=self._heartbeat, daemon=True)
        self._heart.start()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._fault is not None:
            return  # there is nobody to tell
        with suppress(RayActorError, ray.exceptions.GetTimeoutError):  # the pool forgets a lease that is silent
            ray.get(self._pool.close.remote(self.name), timeout=self.ttl)

    def ask(self) -> "ray.ObjectRef":
        """Ask for more workers; `granted` reads the answer, which comes within seconds and may be empty.

        One question is open at a time: an answer that nobody reads would hold workers.
        """
        if self._asked is None:
            self._asked = self._pool.acquire.remote(self.name)
        return self._asked

    def granted(self, answer: "ray.ObjectRef") -> list[Grant]:
        """The workers in an answer to `ask`."""
        self._asked = None
        try:
            found = answered(answer, "the pool", check=self.check)
        except RayActorError:
            time.sleep(1.0)  # the pool is being restarted
            return []
        except RayTaskError as error:
            raise cause(error) from error
        if found is None:
            self._open()
        if not found:
            self._waited += 1
            if self._waited == SILENT and not self._served:
                self._say("waiting for workers: `rankshift pool status` says who has them")
            return []
        self._served = True
        grants = [Grant(*one) for one in found]
        self._hosts.watch(grant.host for grant in grants)
        return grants

    def wait(self) -> list[Grant]:
        """Wait until workers are granted: all of a gang, at least one otherwise."""
        while True:
            self.check()
            if found := self.granted(self.ask()):
                return found

    def check(self) -> None:
        """Raise Interrupted where the pool was stopped or the cluster does not answer any more, as the heartbeat has found."""
        if self._fault is not None:
            raise Interrupted(self._fault)

    def gone(self, grant: Grant) -> bool:
        """Has the host of a worker vanished, as far as the heartbeat has found?"""
        return self._hosts.gone(grant.host)

    def release(self, grant: Grant, *, suspect: bool = False) -> None:
        """Give a worker back; a suspect one (it died, or may hang) is lent again only after it has answered."""
        self._pool.release.remote(self.name, grant.worker, grant.epoch, suspect)

    def recalled(self, leaving: int) -> "ray.ObjectRef":
        """Ask how many workers are to be given back besides those that are leaving; the answer comes within seconds."""
        return self._pool.recalled.remote(self.name, leaving)

    def weights(self, sha256: str) -> list:
        """[reference] of weights that a worker has published, or []."""
        try:
            return answered(self._pool.weights.remote(sha256), "the pool", check=self.check) or []
        except RayActorError:
            return []

    def publish(self, grant: Grant, sha256: str, weights: list) -> None:
        """Tell the pool of weights that a worker has put into the object store."""
        self._pool.publish.remote(sha256, grant.worker, weights)

    def _open(self) -> float:
        try:
            return float(answered(self._pool.open.remote(self.name, self.want, self.gang, code_version()), "the pool"))
        except RayTaskError as error:
            raise cause(error) from error

    def _heartbeat(self) -> None:
        heard = time.monotonic()
        while not self._ended.wait(min(self.ttl / HEARTBEATS, 3.0)):
            # A pool that is being restarted is asked again.
            with suppress(RayActorError, ray.exceptions.GetTimeoutError):
                try:
                    ray.get(self._pool.heartbeat.remote(self.name), timeout=self.ttl / 3)
                except ActorDiedError:
                    self._fault = STOPPED
                    return
            self._hosts.knock()
            what = silent()
            if what is None:
                heard = time.monotonic()
            elif time.monotonic() - heard > LOST:
                self._fault = f"{what} {GONE}"
                lost.set()
                return


def cause(error: RayTaskError) -> Exception:
    """What to raise for an error of a call: one that a user or a caller understands itself, else Ray's error with its trace."""
    found = error.cause if isinstance(error.cause, Exception) else error
    return found if isinstance(found, PLAIN) else error
