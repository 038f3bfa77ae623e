"""Who is taken for gone: a place that answered before and does not any more, and nobody else."""

import socket
from collections.abc import Iterator

import pytest

from rankshift.jobs.pool.connection import Hosts, Place


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield door


def free() -> Place:
    """A port at which nobody listens."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()


def test_a_place_is_gone_when_it_does_not_answer_any_more_and_is_back_when_it_does(listening):
    place = listening.getsockname()
    hosts = Hosts(lost=0.0)
    hosts.watch([place, None])
    hosts.knock()
    assert not hosts.gone(place)
    listening.close()
    hosts.knock()
    assert hosts.gone(place)
    with socket.create_server(place):
        hosts.knock()
    assert not hosts.gone(place)


def test_a_place_has_a_while_to_answer_again(listening):
    place = listening.getsockname()
    hosts = Hosts(lost=3600.0)
    hosts.watch([place])
    hosts.knock()
    listening.close()
    hosts.knock()
    assert not hosts.gone(place)


def test_a_place_that_never_answered_is_not_judged():
    place, hosts = free(), Hosts(lost=0.0)
    hosts.watch([place])
    hosts.knock()
    assert not hosts.gone(place)
    assert not hosts.gone(None)
