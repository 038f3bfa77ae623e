"""Where the ranks of a training meet: a store of torch that listens at one address only, and to nobody once all are there.

The store itself knows no secret, so whoever reaches it before that is believed: it listens on the loopback where all ranks
are on one machine, else on the address of rank 0 in the network of the cluster.
"""

import ctypes
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from time import monotonic, sleep
from typing import NoReturn
from urllib.parse import urlsplit

import torch.distributed as dist

from rankshift.jobs.training.keepalive import open_sockets, watch_hosts
from rankshift.screen.errors import InputError, Interrupted, Stopped

WAITING = 128  # ranks that may knock at once
LOOK = 0.1  # seconds between looks at who is there
KNOCK = timedelta(seconds=2)  # a rank that comes before rank 0 knocks again
ANSWER = timedelta(seconds=10)  # that the store may take while nobody computes: a host that is gone would take 20
LEAVING = 1.0  # seconds that rank 0 waits for the others to read why they leave
HERE, OUTCOME = "here", "outcome"  # keys of the store: how many ranks are there, and the word of the one who decided
MET, STOPPED, LATE = "met", "stopped", "late"
AGAIN = "see `rankshift pool status`, then continue with --resume"
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
_DROP = 0x06  # BPF_RET | BPF_K: return a constant, here no byte of any packet


class Rendezvous:
    """The store of `world` ranks at tcp://host:port, where rank 0 listens. Every rank waits here until all are there.

    stopped: asked meanwhile. Either all meet, or none: where one was told to stop before, all raise Stopped. Who has waited
    for longer than the timeout, or for a rank 0 that is gone, raises Interrupted.
    """

    def __init__(
        self,
        where: str,
        number: int,
        world: int,
        timeout: timedelta,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        at = urlsplit(where)
        if at.scheme != "tcp" or not at.hostname or not at.port:
            raise InputError(f"{where!r} is no meeting point: give tcp://host:port")
        self._door = _listening(at.hostname, at.port) if number == 0 else None
        self._until, self._stopped = monotonic() + timeout.total_seconds(), stopped
        before = open_sockets()
        self.store = self._reached(at.hostname, at.port, world)
        watch_hosts(before)
        try:
            self.store.set_timeout(ANSWER)
            self._meet(world)
            self.store.set_timeout(timeout)
        except dist.DistError as error:
            if self._stopped():
                _raise(STOPPED, "")
            raise Interrupted(f"rank 0 of the training is gone: {AGAIN}") from error

    def _reached(self, host: str, port: int, world: int) -> dist.TCPStore:
        if self._door is not None:
            handle = os.dup(self._door.fileno())
            return dist.TCPStore(host, port, world, True, wait_for_workers=False, master_listen_fd=handle)
        while True:
            if (word := self._over()) is not None:
                _raise(word, "rank 0")
            try:
                return dist.TCPStore(host, port, world, False, KNOCK, wait_for_workers=False)
            except dist.DistError:
                continue

    def _meet(self, world: int) -> None:
        """The last to come says that all have met, unless somebody has left before: the first word counts."""
        store = self.store
        if store.add(HERE, 1) == world:
            store.compare_set(OUTCOME, "", MET)
        while not store.check([OUTCOME]):
            if (word := self._over()) is not None:
                store.compare_set(OUTCOME, "", word)
            else:
                sleep(LOOK)
        outcome = store.get(OUTCOME).decode()
        if outcome == MET:
            return
        left, end = store.add(HERE, -1), monotonic() + LEAVING
        while (
            self._door is not None and left and monotonic() < end
        ):  # the store ends with rank 0: the others read it first
            sleep(LOOK)
            left = store.add(HERE, 0)
        _raise(outcome, "the other ranks")

    def _over(self) -> str | None:
        """Why to wait no longer, if there is a reason."""
        if self._stopped():
            return STOPPED
        return LATE if monotonic() > self._until else None

    def close_door(self) -> None:
        """Let nobody in any more: the system drops whoever knocks. Those who are inside are not touched."""
        if self._door is None:
            return
        if sys.platform == "linux":
            # A listener that is shut down or closed would keep torch's thread busy with its end; one that hears nothing waits.
            code = ctypes.create_string_buffer(_DROP.to_bytes(2, sys.byteorder) + bytes(6), 8)
            program = (1).to_bytes(2, sys.byteorder) + bytes(6) + ctypes.addressof(code).to_bytes(8, sys.byteorder)
            self._door.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
        self._door.close()
        self._door = None


def _raise(word: str, who: str) -> NoReturn:
    if word == STOPPED:
        raise Stopped("stopped before the first step: begin again with --resume")
    raise Interrupted(f"{who} did not come to the meeting of the training: {AGAIN}")


def _listening(host: str, port: int) -> socket.socket:
    family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    door = socket.socket(family, kind)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind(place)
    except OSError:
        door.close()
        raise
    door.listen(WAITING)
    return door
