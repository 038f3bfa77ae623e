"""A driver's connection to a Ray cluster: made with a limit of time, watched, and left also where nobody answers any more.

By itself Ray waits a minute for a head that is gone, tells of it in lines of its own, and ends the process.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from rankshift.screen.errors import InputError

NAMESPACE = "rankshift"
POOL = "rankshift-pool"  # the name of the running pool; private ones have names of their own
QUIET = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": NAMESPACE}
KNOCK = 2.0  # seconds an address may take to let somebody in
TRIES = 3  # knocks before a named cluster is called silent
LEAVING = 5.0  # seconds that a shutdown of a lost cluster may take
lost = threading.Event()  # the cluster of this process does not answer any more


def connect(where: str, **options: Any) -> None:
    """`ray.init`, after which SIGTERM means to the command what it meant before: Ray would end the process with its number."""
    import ray  # late: whoever only asks whether there is a cluster must not wait seconds for Ray

    lost.clear()
    with _same_signal():
        ray.init(where, **QUIET, **options)


@contextmanager
def _same_signal() -> Iterator[None]:
    """Ray sets what SIGTERM does when it begins and when it ends; a handler that was there before comes back."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
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
            theirs = _started_by(node)
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            for process in theirs:
                with suppress(Exception):  # it has ended with its parent
                    process.kill()
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    ending.start()
    ending.join(LEAVING)


def _started_by(node: Any) -> list[Any]:
    """What Ray's processes have started: workers, and agents that would look for the head for another minute."""
    import psutil  # late: it comes with ray, which puts it on the path

    found = []
    for known in node.all_processes.values():
        for one in known:
            with suppress(psutil.Error):
                found += psutil.Process(one.process.pid).children(recursive=True)
    return found


def exit_now_if_lost(code: int) -> None:
    """End this process at once where its cluster is lost: at its exit Ray would wait for the head once more."""
    if lost.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
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
