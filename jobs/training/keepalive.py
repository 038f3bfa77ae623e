"""Connections of a gang that end soon after the host at their other end is gone: its kernel is asked every few seconds.

A process that dies closes its connections; a host that loses power or network does not, and whoever waits for it would wait
until the patience of a collective ends, which long steps need. Only kernels talk: a slow or stopped process is not gone.
"""

import os
import socket
from pathlib import Path

IDLE = 5  # seconds without a byte after which the other host is asked
TIMES = 3  # questions without an answer, IDLE seconds apart, after which the connection fails
_OPEN = Path("/proc/self/fd")  # of Linux; elsewhere nothing is watched


def open_sockets() -> set[str]:
    """Names of the sockets that this process has open now."""
    return set(_sockets())


def watch_hosts(before: set[str]) -> int:
    """Have the kernel ask for the hosts at the other end of all connections but those `before`; returns how many."""
    watched = 0
    for name, number in _sockets().items():
        if name in before:
            continue
        try:
            with socket.socket(fileno=os.dup(number)) as connection:
                if connection.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                connection.getpeername()  # raises for one that listens
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, IDLE)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, TIMES)
                # Bytes that were sent and are not acknowledged: the questions above are asked of idle connections only.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * IDLE * (1 + TIMES))
                watched += 1
        except OSError:  # closed meanwhile by a thread of its own
            continue
    return watched


def _sockets() -> dict[str, int]:
    found: dict[str, int] = {}
    if not _OPEN.exists():
        return found
    for entry in os.listdir(_OPEN):
        try:
            name = os.readlink(_OPEN / entry)
        except OSError:
            continue
        if name.startswith("socket:"):
            found[name] = int(entry)
    return found
