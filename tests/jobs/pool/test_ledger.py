"""Ledger without a cluster: shares, gangs, recalls, epochs; and whatever happens, no worker has two holders."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankshift.jobs.pool.ledger import FREE, HELD, QUARANTINE, TURN, Ledger, Slot
from rankshift.screen.errors import InputError


def leases(workers: int, ttl: float = 10.0) -> Ledger:
    out = Ledger(ttl)
    out.slots = {f"w{i}": Slot(epoch=100 * i) for i in range(workers)}
    return out


def names(granted) -> set[str]:
    return {worker for worker, _ in granted}


def test_a_lease_alone_gets_what_it_wants():
    pool = leases(3)
    pool.open("screen", 2, False, 0.0)
    assert len(pool.grant("screen", 0.0)) == 2
    assert pool.grant("screen", 0.0) == []


def test_two_screens_share_and_the_first_is_asked_to_give_back():
    pool = leases(4)
    pool.open("first", 9, False, 0.0)
    assert len(pool.grant("first", 0.0)) == 4
    assert pool.recall("first", 0.0) == 0
    pool.open("second", 9, False, 1.0)
    assert pool.recall("first", 1.0) == 2
    for worker in ("w0", "w1"):
        pool.take_back(worker, FREE)
    assert names(pool.grant("second", 1.0)) == {"w0", "w1"}
    assert pool.recall("first", 1.0) == 0


def test_what_cannot_be_shared_evenly_goes_round():
    pool = leases(1)
    for name in ("a", "b"):
        pool.open(name, 1, False, 0.0)
    assert pool.shares(0.0) == {"a": 1, "b": 0}
    assert pool.shares(TURN) == {"b": 1, "a": 0}


def test_a_gang_takes_its_workers_before_a_screen_gets_them_back():
    pool = leases(2)
    pool.open("screen", 2, False, 0.0)
    pool.grant("screen", 0.0)
    pool.open("gang", 2, True, 1.0)
    assert pool.recall("screen", 1.0) == 2
    pool.take_back("w1", FREE)
    assert names(pool.grant("gang", 1.0)) == {"w1"}
    assert pool.grant("screen", 1.0) == []
    pool.take_back("w0", FREE)
    assert names(pool.grant("gang", 1.0)) == {"w0"}


def test_of_two_gangs_that_do_not_fit_together_the_second_holds_nothing():
    pool = leases(3)
    for name in ("one", "two"):
        pool.open(name, 2, True, 0.0)
    assert len(pool.grant("one", 0.0)) == 2
    assert pool.grant("two", 0.0) == []


def test_a_gang_larger_than_the_pool_is_refused():
    with pytest.raises(InputError, match="gang of 3 workers was asked for, the pool has 2: ask for fewer"):
        leases(2).open("gang", 3, True, 0.0)


def test_a_silent_driver_loses_its_lease_and_its_epoch():
    pool = leases(1, ttl=10.0)
    pool.open("screen", 1, False, 0.0)
    ((worker, epoch),) = pool.grant("screen", 0.0)
    assert pool.holds("screen", worker, epoch)
    assert pool.expired(10.0) == []
    assert pool.expired(10.1) == ["screen"]
    assert pool.take_back(worker, QUARANTINE) > epoch
    assert not pool.holds("screen", worker, epoch)
    assert pool.shares(11.0) == {"screen": 0}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["open", "gang", "grant", "free", "lose", "heal", "close"]),
        st.integers(0, 3),
        st.integers(0, 4),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_no_worker_has_two_holders_and_epochs_only_rise(steps):
    pool, seen = leases(5), {}
    for now, (step, lease, worker) in enumerate(steps):
        name, slot = f"lease{lease}", f"w{worker}"
        if step in ("open", "gang"):
            pool.open(name, 1 + worker, step == "gang", now)
        elif step == "grant" and name in pool.leases:
            pool.grant(name, now)
        elif step in ("free", "lose") and pool.slots[slot].state == HELD:
            pool.take_back(slot, FREE if step == "free" else QUARANTINE)
        elif step == "heal" and pool.slots[slot].state == QUARANTINE:
            pool.slots[slot].state = FREE
        elif step == "close" and name in pool.leases:
            for held in sorted(pool.leases[name].held):
                pool.take_back(held, FREE)
            del pool.leases[name]
        held = [w for x in pool.leases.values() for w in x.held]
        assert len(held) == len(set(held))
        assert set(held) == {w for w, s in pool.slots.items() if s.state == HELD}
        assert all(len(x.held) <= x.want for x in pool.leases.values())
        assert sum(pool.shares(now).values()) <= 5
        for w, s in pool.slots.items():
            assert s.epoch >= seen.get(w, 0)
            seen[w] = s.epoch
