"""The Ray cluster that this user left running on this machine. One of anybody else is never joined unless it is named.

Ray names the last cluster that was started in a folder that everybody may write to. Whoever is joined runs code in the
driver, so the note, its folder's owner and whoever listens at the address must be this user.
"""

import os
import re
import socket
import stat
from pathlib import Path

from rankshift.jobs.pool.auth import use_token

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):(\d{1,5})")


def own_cluster() -> str | None:
    """HOST:PORT of the cluster that `ray start` or `rankshift pool start` left running here, None without one of this user.

    It must ask for a token, unless RAY_AUTH_MODE says that none is wanted: to one without, any user of this machine can send
    code that runs in the commands that join it.
    """
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    try:
        handle = os.open(note, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        there = os.fstat(handle)
        if not stat.S_ISREG(there.st_mode) or there.st_uid != os.getuid() or there.st_mode & 0o022:
            return None
        found = _ADDRESS.fullmatch(file.read(300).decode(errors="replace").strip())
    if found is None or not (use_token() or "RAY_AUTH_MODE" in os.environ):
        return None
    host, port = found[1].strip("[]"), int(found[2])
    if _is_here(host) and listener(port) != os.getuid():
        return None  # gone, or somebody else listens where it was
    return found[0]


def listener(port: int) -> int | None:
    """The user who listens at a TCP port of this machine, None where nobody does. Without /proc: this user, if it answers.

    Of several listeners it is another user, if one is.
    """
    users = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A is LISTEN
                users.add(int(fields[7]))
    if users:
        return max(users, key=lambda user: user != os.getuid())
    return None if Path("/proc/net/tcp").exists() else os.getuid()


def _is_here(host: str) -> bool:
    """Is this an address of this machine? Others cannot be bound to."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(place)
    except OSError:
        return False
    return True
