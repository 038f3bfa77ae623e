"""Connections whose other host is asked for by the kernel: which of a process's sockets, and how often."""

import socket
from pathlib import Path

import pytest

from rankshift.jobs.training.keepalive import IDLE, TIMES, open_sockets, watch_hosts

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing is watched but on Linux")


def options(connection: socket.socket) -> list[int]:
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    return [connection.getsockopt(socket.IPPROTO_TCP, name) for name in names]


def test_both_ends_of_new_connections_are_watched_and_older_ones_left_alone():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = listening.getsockname()
        with socket.create_connection(place) as old, listening.accept()[0]:
            usual = options(old)
            before = open_sockets()
            with socket.create_connection(place) as new, listening.accept()[0] as other, socket.socketpair()[0]:
                assert watch_hosts(before) >= 2
                for end in (new, other):
                    assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                    assert options(end) == [IDLE, IDLE, TIMES, 1000 * IDLE * (1 + TIMES)]
                    end.sendall(b"x")  # it is open still
                assert options(old) == usual
                assert old.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_a_host_is_given_up_within_half_a_minute():
    assert IDLE * (1 + TIMES) < 30
