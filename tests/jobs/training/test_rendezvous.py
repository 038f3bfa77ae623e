"""The meeting point of a training: it listens where it is told to, and after all ranks are there to nobody."""

import socket
import struct
import threading
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from rankshift.jobs.training.rendezvous import Rendezvous
from rankshift.screen.errors import InputError, Interrupted, Stopped
from support import until

SOON = timedelta(seconds=20)


def listening(port: int) -> set[str]:
    """IPv4 addresses on which somebody listens at a port, as the kernel says; :: stands for all of IPv6."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            address, _, at = fields[1].partition(":")
            if fields[3] == "0A" and int(at, 16) == port:
                found.add(socket.inet_ntoa(struct.pack("<I", int(address, 16))) if len(address) == 8 else "::")
    return found


@pytest.fixture
def place() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.slow
def test_it_listens_on_its_address_only_and_to_nobody_once_all_are_there(place):
    ranks: dict[int, Rendezvous] = {}
    second = threading.Thread(target=lambda: ranks.update({1: Rendezvous(place, 1, 2, SOON)}))
    second.start()
    ranks[0] = Rendezvous(place, 0, 2, SOON)
    second.join()
    port = int(place.rsplit(":", 1)[1])
    assert listening(port) == {"127.0.0.1"}
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass  # before the door is closed a stranger gets in
    for rank in ranks.values():
        rank.close_door()
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", port), timeout=0.5)
    ranks[1].store.set("here/1", "yes")
    ranks[0].store.wait(["here/1"], SOON)
    assert ranks[0].store.get("here/1") == b"yes"


def meeting(
    place: str, number: int, world: int, stopped: Callable[[], bool], patience: timedelta = SOON
) -> type[Exception] | None:
    """What a rank that waits for the others raises."""
    try:
        Rendezvous(place, number, world, patience, stopped)
    except (Stopped, Interrupted) as error:
        return type(error)
    return None


@pytest.mark.slow
def test_a_rank_that_is_told_to_stop_ends_the_waiting_of_all(place):
    """Of three ranks two have come, and one of these is told; the third comes later, and to nobody."""
    outcome: dict[int, type[Exception] | None] = {}
    first = threading.Thread(target=lambda: outcome.update({0: meeting(place, 0, 3, lambda: False)}))
    first.start()
    until(lambda: bool(listening(int(place.rsplit(":", 1)[1]))))
    asked = count()
    outcome[1] = meeting(place, 1, 3, lambda: next(asked) > 0)  # asked again, it has come
    first.join()
    assert outcome == {0: Stopped, 1: Stopped}
    assert meeting(place, 2, 3, lambda: False, timedelta(seconds=0.5)) is Interrupted


def test_a_rank_whose_first_has_not_come_hears_that_it_should_stop(place):
    assert meeting(place, 1, 2, lambda: True, timedelta(hours=1)) is Stopped


def test_who_waits_for_others_in_vain_says_so(place):
    with pytest.raises(Interrupted, match=r"the other ranks did not come to the meeting .* --resume"):
        Rendezvous(place, 0, 2, timedelta(seconds=0.2))


@pytest.mark.parametrize("where", ["127.0.0.1:4711", "tcp://127.0.0.1", "http://127.0.0.1:1"])
def test_what_is_no_meeting_point_is_refused(where):
    with pytest.raises(InputError, match="is no meeting point: give tcp://host:port"):
        Rendezvous(where, 0, 2, SOON)
