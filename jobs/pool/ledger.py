"""Who may use which worker: leases, their shares, and epochs that fence off whoever held a worker before.

Plain bookkeeping with no clock and no Ray of its own: every call is told the time. The pool acts on what it answers.
"""

from dataclasses import dataclass, field

from rankshift.screen.errors import InputError

TURN = 60.0  # seconds until the share that cannot be divided evenly goes to the next lease
FREE, HELD, QUARANTINE = "free", "held", "quarantine"


@dataclass(kw_only=True, slots=True)
class Slot:
    """A worker. epoch: of its last change of hands; a call with a lower one is stale. holder: name of a lease."""

    epoch: int
    state: str = FREE
    holder: str | None = None


@dataclass(kw_only=True, slots=True)
class Claim:
    """A lease, as the ledger has it: the right to use up to `want` workers for a while; a gang takes exactly as many, at once.

    heartbeat: last seen.
    """

    name: str
    want: int
    gang: bool
    heartbeat: float
    held: set[str] = field(default_factory=set)


class Ledger:
    """Slots and leases. Leases get equal shares, gangs before screens, first come first served among gangs."""

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self.slots: dict[str, Slot] = {}
        self.leases: dict[str, Claim] = {}

    def open(self, name: str, want: int, gang: bool, now: float) -> None:
        """Ask for workers; opening a lease again changes nothing but the time it was seen."""
        if gang and want > len(self.slots):
            raise InputError(f"a gang of {want} workers was asked for, the pool has {len(self.slots)}: ask for fewer")
        self.leases.setdefault(name, Claim(name=name, want=want, gang=gang, heartbeat=now)).heartbeat = now

    def shares(self, now: float) -> dict[str, int]:
        """How many workers each lease is entitled to. What cannot be divided evenly goes round, a turn at a time."""
        left = sum(slot.state != QUARANTINE for slot in self.slots.values())
        out = {}
        for lease in self.leases.values():
            if lease.gang:
                out[lease.name] = lease.want if lease.want <= left else 0
                left -= out[lease.name]
        others = [lease for lease in self.leases.values() if not lease.gang]
        turn = int(now / TURN) % len(others) if others else 0
        hungry = others[turn:] + others[:turn]
        out |= {lease.name: 0 for lease in others}
        while left and hungry:  # one worker at a time, round the table, to whoever wants more
            for lease in list(hungry):
                if out[lease.name] == lease.want:
                    hungry.remove(lease)
                elif left:
                    out[lease.name], left = out[lease.name] + 1, left - 1
        return out

    def recall(self, name: str, now: float) -> int:
        """How many workers the lease should give back at its next shard boundary, because another waits for its share."""
        shares = self.shares(now)
        waits = any(len(lease.held) < shares[lease.name] for lease in self.leases.values() if lease.name != name)
        return max(0, len(self.leases[name].held) - shares[name]) if waits else 0

    def grant(self, name: str, now: float) -> list[tuple[str, int]]:
        """Hand free workers to a lease within its share: (worker, epoch) of the new ones."""
        lease = self.leases[name]
        room = self.shares(now)[name] - len(lease.held)
        free = [worker for worker, slot in self.slots.items() if slot.state == FREE]
        granted = []
        for worker in free[: max(room, 0)]:
            slot = self.slots[worker]
            slot.epoch, slot.state, slot.holder = slot.epoch + 1, HELD, name
            lease.held.add(worker)
            granted.append((worker, slot.epoch))
        return granted

    def holds(self, name: str, worker: str, epoch: int) -> bool:
        """Does the lease still hold this worker by this epoch?"""
        slot = self.slots[worker]
        return slot.holder == name and slot.epoch == epoch

    def take_back(self, worker: str, state: str) -> int:
        """End whatever holds the worker and put it in `state`; returns the epoch that fences the old holder off."""
        slot = self.slots[worker]
        if slot.holder in self.leases:
            self.leases[slot.holder].held.discard(worker)
        slot.epoch, slot.state, slot.holder = slot.epoch + 1, state, None
        return slot.epoch

    def expired(self, now: float) -> list[str]:
        """Leases whose driver was not heard of for the time to live."""
        return [lease.name for lease in self.leases.values() if now - lease.heartbeat > self.ttl]
