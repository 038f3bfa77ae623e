"""Where the ranks of a training meet: a store of torch that listens at one address only, and to nobody once all are there.

The store itself knows no secret, so whoever reaches it before that is believed: it listens on the loopback where all ranks
are on one machine, else on the address of rank 0 in the network of the cluster.
"""

import ctypes
import os
import socket
import sys
from datetime import timedelta
from urllib.parse import urlsplit

import torch.distributed as dist

from rankshift.screen.errors import InputError

WAITING = 128  # ranks that may knock at once
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
_DROP = 0x06  # BPF_RET | BPF_K: return a constant, here no byte of any packet


class Rendezvous:
    """The store of `world` ranks at tcp://host:port, where rank 0 listens. Every rank waits here until all are there."""

    def __init__(self, where: str, number: int, world: int, timeout: timedelta) -> None:
        at = urlsplit(where)
        if at.scheme != "tcp" or not at.hostname or not at.port:
            raise InputError(f"{where!r} is no meeting point: give tcp://host:port")
        self._door = _listening(at.hostname, at.port) if number == 0 else None
        handle = None if self._door is None else os.dup(self._door.fileno())
        self.store = dist.TCPStore(
            at.hostname, at.port, world, is_master=number == 0, timeout=timeout, master_listen_fd=handle
        )

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
