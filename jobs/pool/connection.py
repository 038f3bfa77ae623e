"""A driver's connection to a Ray cluster: made with a limit of time, watched, and left also where nobody answers any more.

By itself Ray waits a minute for a head that is gone, tells of it in lines of its own, and ends the process. Nothing outside the
loops over calls waits for Ray without a limit: `answered` has one.
"""

import asyncio
import atexit
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rankshift.screen.errors import InputError, Interrupted

NAMESPACE = "rankshift"
POOL = "rankshift-pool"  # the name of the running pool; private ones have names of their own
QUIET = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": NAMESPACE}
KNOCK = 2.0  # seconds an address may take to let somebody in
TRIES = 3  # knocks before a named cluster is called silent
LEAVING = 5.0  # seconds that a shutdown of a lost cluster may take
ANSWER = 180.0  # seconds for an answer that needs no work: a worker that starts beside many others takes a minute
READ = 1800.0  # seconds for one that needs a model to be read or put into the object store
LOOK = 1.0  # seconds between looks at what else may end a wait for an answer
STOPPED = "the pool was stopped, what was committed stays: rankshift pool start, then continue with --resume"
LOST = 8.0  # seconds without a head or a process of Ray here before the cluster is given up
GONE = "does not answer any more: start it, then continue with --resume"
Place = tuple[str, int]  # address and port of Ray's process on a host
lost = threading.Event()  # the cluster of this process does not answer any more
log = logging.getLogger(__name__)


def connect(where: str, **options: Any) -> None:
    """`ray.init`, after which SIGTERM means to the command what it meant before: Ray would end the process with its number."""
    import ray  # late: whoever only asks whether there is a cluster must not wait seconds for Ray

    lost.clear()
    # The driver says what matters in its own line: what Ray says of its processes goes to the log of this module.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of calls that nobody waits for any more
    ray._private.worker.print_to_stdstream = _overheard
    with _same_signal():
        ray.init(where, **QUIET, **options)


def _overheard(data: dict[str, Any], ignore_prefix: bool = False) -> None:
    for line in data.get("lines", ()):
        log.info("ray: %s", line)


def answered(call: Any, who: str, *, seconds: float = ANSWER, check: Callable[[], None] = lambda: None) -> Any:
    """What a call of an actor gives. Raises Interrupted where it takes longer, the pool was stopped or the cluster is gone.

    who: is waited for, in words. check: asked now and then, raises where the wait is over for another reason.
    """
    import ray  # late, see above
    from ray.exceptions import ActorDiedError

    end = time.monotonic() + seconds
    heard = time.monotonic()
    while not ray.wait([call], timeout=min(LOOK, seconds))[0]:
        check()
        what, now = silent(), time.monotonic()
        if what is None:
            heard = now
        elif now - heard > LOST:
            lost.set()
            raise Interrupted(f"{what} {GONE}")
        if now > end:
            raise Interrupted(
                f"{who} has not answered for {seconds:.0f} s: see `rankshift pool status`, then continue with --resume"
            )
    try:
        return ray.get(call)
    except ActorDiedError as error:
        raise Interrupted(STOPPED) from error


@contextmanager
def _same_signal() -> Iterator[None]:
    """Ray sets what SIGTERM does when it begins and when it ends; a handler that was there before stays."""
    import ray._private.utils  # late, see above

    ours, theirs = signal.getsignal(signal.SIGTERM), ray._private.utils.set_sigterm_handler
    if callable(ours):
        ray._private.utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = theirs
        if callable(ours) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)


def leave() -> None:
    """End the connection, and with it a private cluster."""
    import ray  # late, see above

    if not lost.is_set():
        with _same_signal():
            ray.shutdown()
        return
    # A shutdown asks the head, which does not answer: what this process started is ended without asking.
    with suppress(Exception):
        node = ray._private.worker._global_node
        if node is not None and node.is_head():
            begun = _children_of_raylets({info.process.pid for info in node.all_processes.get("raylet", ())})
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            for process in begun:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    ending.start()
    ending.join(LEAVING)


def _children_of_raylets(raylets: set[int]) -> list[int]:
    """Processes of Ray that these have begun, of whom Ray itself has no list; where there is no /proc, none.

    Workers and agents end with their raylet, but not where they are stopped, or wait a minute for the head.
    """
    signs = {f"RAY_RAYLET_PID={raylet}".encode() for raylet in raylets}
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if signs & set(place.read_bytes().split(b"\0")):
                found.append(int(place.parent.name))
    return found


def exit_where_ray_was(code: int) -> None:
    """End this process with its exit code, and without Ray's last words, where it was connected to a cluster.

    At the exit of the interpreter Ray would wait once more for a head that is lost; and where a node had vanished, its threads
    have crashed there (SIGSEGV in place of the exit code, with Ray 2.60).
    """
    if not lost.is_set():
        if "ray" not in sys.modules:
            return
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def refuse_silent(where: str) -> None:
    """Refuse an address HOST:PORT, also of Ray's client, at which nobody listens. Others are for Ray to judge."""
    at = urlsplit(where if "://" in where else f"ray://{where}")
    try:
        host, port = at.hostname, at.port
    except ValueError:
        return
    if host is None or port is None:
        return
    for attempt in range(TRIES):
        if attempt:
            time.sleep(1.0)
        if answers(host, port):
            return
    raise InputError(f"no Ray cluster answers at RAY_ADDRESS={where}: start it, or unset RAY_ADDRESS")


def answers(host: str, port: int) -> bool:
    """Does somebody listen there?"""
    try:
        with socket.create_connection((host, port), timeout=KNOCK):
            return True
    except OSError:
        return False


def silent() -> str | None:
    """What of the cluster does not answer now: its head, or Ray's process on this machine. None where all is well."""
    import ray  # late, see above

    node = ray._private.worker._global_node
    if node is None:
        return None
    host, _, port = str(node.gcs_address).rpartition(":")
    if not answers(host.strip("[]"), int(port)):
        return f"the head of the Ray cluster ({node.gcs_address})"
    with socket.socket(socket.AF_UNIX) as here:
        here.settimeout(KNOCK)
        try:
            here.connect(node.raylet_socket_name)
        except OSError:
            return "Ray's process on this machine"
    return None


class Hosts:
    """Where workers are, and who answers there: Ray itself takes a minute to give up a host that vanished.

    Ray's process on a host listens at a port; whether somebody can be reached there is for two kernels to say, so that a worker
    which is busy or stopped is not taken for gone. A host that never answered is not judged: there may be a wall before it.
    lost: seconds over which nobody answered, after which a host is gone.
    """

    def __init__(self, lost: float = LOST) -> None:
        self._lost = lost
        self._places: set[Place] = set()
        self._silent: dict[Place, tuple[float, float]] = {}  # of those that have answered before: first and last knock
        self._heard: set[Place] = set()

    def watch(self, places: Iterable[Place | None]) -> None:
        """From now on knock at these, too, for the first time at once; None is nowhere."""
        new = {place for place in places if place is not None} - self._places
        if new:
            self._heard.update(asyncio.run(_answering(list(new))))
            self._places |= new

    def knock(self) -> None:
        """Knock at all places at once; it takes two seconds at most."""
        places, began = list(self._places), time.monotonic()
        answering = asyncio.run(_answering(places))
        self._heard.update(answering)
        for place in answering:
            self._silent.pop(place, None)
        for place in self._heard.difference(answering):
            first, _ = self._silent.get(place, (began, began))
            self._silent[place] = first, time.monotonic()

    def gone(self, place: Place | None) -> bool:
        """Did somebody answer there once, and nobody over a while in which we knocked?"""
        knocks = None if place is None else self._silent.get(place)
        return knocks is not None and knocks[1] - knocks[0] > self._lost


async def _answering(places: Collection[Place]) -> list[Place]:
    found = await asyncio.gather(*(_answers(place) for place in places))
    return [place for place, there in zip(places, found, strict=True) if there]


async def _answers(place: Place) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(*place), KNOCK)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
