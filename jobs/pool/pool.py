"""The pool: one actor, off the data path, that owns the workers and lends them out.

It watches heartbeats, takes workers back from drivers that died, keeps crashed workers in quarantine until they answer,
and knows which worker has which model warm. Restarted, it learns all of that again from the workers.

Why it is written here and not taken from Ray (2.60): Ray Train's TorchTrainer starts workers of its own, cold (15 s), so it
cannot train on the warm actors that screens use; Ray Data's actor pool starts its own, too; ActorPool loses items when a
worker crashes, and none of them gives workers back at a shard's end because a training waits, or takes them from a driver
that died. Those two, pre-emption and fencing, are what this room is for.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import ray
from ray.exceptions import RayActorError

from rankshift.jobs.pool.actor import WorkerActor
from rankshift.jobs.pool.connection import NAMESPACE, POOL
from rankshift.jobs.pool.ledger import FREE, HELD, QUARANTINE, Ledger, Slot
from rankshift.screen.errors import InputError, Interrupted
from rankshift.screen.files.one_line import one_line

POLL = 2.0  # seconds an answer to `acquire` waits for a worker, so that a driver's death never blocks the pool
PATIENCE = 600.0  # seconds a worker may take to end what it does before it is restarted: longer than any shard
HUNG = 60.0  # seconds that a worker in quarantine may be silent: longer than one takes to start again
ANSWER = 60.0  # seconds a new worker may take to answer when the pool starts
BROKEN = 5  # deaths in a row without an answer after which a worker is called broken


class Pool:
    """Lends workers to leases. All methods are asynchronous, so none of them blocks another."""

    def __init__(
        self,
        name: str,
        count: int,
        share: dict[str, float],
        threads: int | None,
        ttl: float,
        code: str,
        hung: float = HUNG,
    ) -> None:
        self._name, self._code, self._share, self._hung = name, code, share, hung
        self._ledger = Ledger(ttl)
        self._published: dict[str, tuple[str, list[ray.ObjectRef]]] = {}  # sha256 -> worker, its weights
        self._faults: dict[str, str] = {}
        self._hosts: dict[str, tuple[str, int]] = {}  # of workers: where Ray's process listens
        self._changed = asyncio.Event()
        self._workers = {}
        detached = {"lifetime": "detached"} if name == POOL else {}
        actor = ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"control": 4}, **share)(WorkerActor)
        for i in range(count):
            worker = f"{name}-{i}"
            options = {"name": worker, "namespace": NAMESPACE, "get_if_exists": True, **detached}
            self._workers[worker] = actor.options(**options).remote(worker, threads)
            # Epochs start at the clock, in milliseconds: a pool that was restarted is ahead of the one before it.
            self._ledger.slots[worker] = Slot(epoch=int(time.time() * 1000), state=QUARANTINE)
        self._known = asyncio.Event()  # after a restart: the workers have said who holds them
        loop = asyncio.get_event_loop()
        adopting = [loop.create_task(self._adopt(worker)) for worker in self._workers]
        self._tasks = [*adopting, loop.create_task(self._watch())]
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self._tasks.append(loop.create_task(self._learn(adopting)))
        else:
            self._known.set()

    # ---- what drivers ask

    async def open(self, lease: str, want: int, gang: bool, code: str) -> float:
        """Open a lease; returns its time to live in seconds. A driver of another version of the code is refused."""
        if code != self._code:
            raise InputError(
                f"the pool runs code {self._code[:12]}, this command {code[:12]}: "
                "restart the pool (rankshift pool stop, rankshift pool start)"
            )
        self._ledger.open(lease, want, gang, time.monotonic())
        self._wake()
        return self._ledger.ttl

    async def heartbeat(self, lease: str) -> None:
        """A driver's sign of life."""
        await self._known.wait()
        if lease in self._ledger.leases:
            self._ledger.leases[lease].heartbeat = time.monotonic()

    async def recalled(self, lease: str, leaving: int) -> int:
        """How many workers to give back besides those that are leaving; answered when there are some, or after a little."""
        await self._known.wait()
        until = time.monotonic() + POLL
        while lease in self._ledger.leases:
            now = time.monotonic()
            more = self._ledger.recall(lease, now) - leaving
            if more > 0 or now > until:
                return max(more, 0)
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), until - now)
        return 0

    async def acquire(self, lease: str) -> list[tuple[str, Any, int, tuple[str, int]]] | None:
        """Workers newly granted, as (name, handle, epoch, host), after waiting a little; a gang gets all of them or none yet.

        None: the lease was taken back. Interrupted: no worker lives.
        """
        await self._known.wait()
        until = time.monotonic() + POLL
        while True:
            if lease not in self._ledger.leases:
                return None
            if len(self._faults) == len(self._workers):
                raise Interrupted(
                    f"no worker answers ({next(iter(self._faults.values()))}): see Ray's logs, then continue with --resume"
                )
            asking = self._ledger.leases[lease]
            asking.heartbeat = now = time.monotonic()
            granted = self._ledger.grant(lease, now)
            for worker, epoch in granted:
                self._workers[worker].fence.remote(epoch, (lease, asking.want, asking.gang))
            if asking.gang:
                whole = len(asking.held) == asking.want
                granted = [(w, self._ledger.slots[w].epoch) for w in sorted(asking.held)] if whole else []
            if granted or now > until:
                return [(worker, self._workers[worker], epoch, self._hosts[worker]) for worker, epoch in granted]
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), until - now)
            except TimeoutError:
                continue

    async def release(self, lease: str, worker: str, epoch: int, suspect: bool) -> None:
        """Take a worker back from its holder; a suspect one goes to quarantine until it answers."""
        if self._ledger.holds(lease, worker, epoch):
            self._retire(worker, suspect)

    async def close(self, lease: str) -> None:
        """End a lease and take all its workers back."""
        found = self._ledger.leases.get(lease)
        if found is None:
            return
        for worker in sorted(found.held):
            self._retire(worker, suspect=True)  # it may still be computing
        del self._ledger.leases[lease]
        self._wake()

    async def publish(self, sha256: str, worker: str, weights: list) -> None:
        """Remember that a worker put weights into the object store."""
        self._published[sha256] = worker, weights

    async def weights(self, sha256: str) -> list | None:
        """A reference to published weights, in a list so that it is not fetched on the way."""
        found = self._published.get(sha256)
        return None if found is None else found[1]

    async def state(self) -> dict[str, Any]:
        """Everything there is to see: workers with what they last said, leases, and the code version."""
        said = await asyncio.gather(*(self._status(worker) for worker in self._workers))
        workers = {
            worker: {**status, **asdict(self._ledger.slots[worker]), "fault": self._faults.get(worker)}
            for worker, status in zip(self._workers, said, strict=True)
        }
        now = time.monotonic()
        leases = {
            name: {"want": x.want, "gang": x.gang, "held": sorted(x.held), "silent": now - x.heartbeat}
            for name, x in self._ledger.leases.items()
        }
        return {"code": self._code, "ttl": self._ledger.ttl, "share": self._share, "workers": workers, "leases": leases}

    async def handles(self) -> dict[str, Any]:
        """The workers themselves, to end them with the pool."""
        return self._workers

    # ---- what the pool does by itself

    def _wake(self) -> None:
        self._changed.set()

    def _retire(self, worker: str, suspect: bool) -> None:
        epoch = self._ledger.take_back(worker, QUARANTINE if suspect else FREE)
        if suspect:
            self._tasks.append(asyncio.get_event_loop().create_task(self._probe(worker)))
        else:
            self._workers[worker].fence.remote(epoch, None)
        self._wake()

    async def _adopt(self, worker: str) -> None:
        """Wait for a worker's first answer. One that still works for a lease keeps it; the others are free."""
        slot = self._ledger.slots[worker]
        status = await self._answer(worker, lambda handle: handle.status.remote())
        if status["holder"] is None:
            slot.state = FREE
        else:
            lease, want, gang = status["holder"]
            slot.epoch, slot.state, slot.holder = status["epoch"], HELD, lease
            self._ledger.open(lease, want, gang, time.monotonic())
            self._ledger.leases[lease].held.add(worker)
        self._wake()

    async def _learn(self, adopting: list[asyncio.Task]) -> None:
        """Drivers are answered when the workers have answered, or after ANSWER seconds without those that did not."""
        await asyncio.wait(adopting, timeout=ANSWER)
        self._known.set()

    async def _probe(self, worker: str) -> None:
        """Wait until a worker has stopped whatever it does and answers; then it is free."""
        slot = self._ledger.slots[worker]
        self._workers[worker].fence.remote(slot.epoch, None)
        await self._answer(worker, lambda handle: self._drained(handle, slot.epoch))
        slot.state = FREE
        self._wake()

    async def _drained(self, handle: Any, epoch: int) -> dict[str, Any]:
        """What a worker says when all before has ended. TimeoutError where meanwhile it does not even say how it is."""
        draining = asyncio.ensure_future(handle.drain.remote(epoch))
        while not (await asyncio.wait([draining], timeout=self._hung))[0]:
            await asyncio.wait_for(handle.status.remote(), self._hung)
        return dict(draining.result())

    async def _answer(self, worker: str, ask: Callable[[Any], Any]) -> dict[str, Any]:
        """A worker's status by whichever call, however often it dies before; one that hangs is restarted."""
        deaths = 0
        while True:
            try:
                status = dict(await asyncio.wait_for(ask(self._workers[worker]), PATIENCE))
                break
            except TimeoutError:
                ray.kill(self._workers[worker], no_restart=False)
            except RayActorError as error:
                deaths += 1
                if deaths == BROKEN:
                    self._faults[worker] = one_line(error)
                    self._wake()
                await asyncio.sleep(min(0.25 * deaths, 5))
        self._faults.pop(worker, None)
        self._hosts[worker] = status["host"]
        for sha256, weights in status["published"].items():
            self._published[sha256] = worker, weights
        return status

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._ledger.ttl / 4)
            for lease in self._ledger.expired(time.monotonic()):
                await self.close(lease)
            self._tasks = [task for task in self._tasks if not task.done()]

    async def _status(self, worker: str) -> dict[str, Any]:
        try:
            return dict(await asyncio.wait_for(self._workers[worker].status.remote(), 2.0))
        except (TimeoutError, RayActorError):
            return {}
