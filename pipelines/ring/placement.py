"""Many small replicas or few long rings: how a set of devices is best divided for a load, and why. Decides only.

Devices stand in a row, and neighbours become a ring together:

    4 x 1    0 | 1 | 2 | 3      each by itself: nothing to hand on, and a lost one ends its own sessions alone
    2 x 2    0 - 1 | 2 - 3
    1 x 4    0 - 1 - 2 - 3      each holds a quarter of the model, and one session may have the time of all four

Of all divisions the one is best that serves most of the sessions asked for; then the one with the most room, for which
time that is too short for one more session counts as well; then the one that is done soonest with a chunk. As a ring's
work never comes out quite even, a ring is chosen only where it is needed: where a device has not the memory for the
model, or not the time for one session, or where several together serve a session more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import inf

from pipelines.causal_wan.memory import Shares
from pipelines.ring.replica import Device, Load, Replica, Trouble, replica_of

ANY_DIVISION = 12
"""Up to so many devices every division is looked at; of more those into rings of one length alone."""

WORTH = 1.1
"""Rings of different lengths are chosen only where they serve more of the sessions, or have so many times the room."""

ALIKE = 0.99
"""With so much of another one's room there is as much, for whoever reads it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One division of the devices, and what it does under the load."""

    sizes: tuple[int, ...]
    """Devices of each ring, in their order."""
    replicas: tuple[Replica, ...]
    """The rings that hold at least one session of the load."""
    troubles: tuple[Trouble, ...]
    """Why the others do not."""
    idle: int
    """Devices of the others, and those that were left over."""

    @property
    def name(self) -> str:
        """Replicas x stages, such as 2 x 4; the idle devices are not among them."""
        working = Counter(len(replica.devices) for replica in self.replicas) or Counter(self.sizes)
        shape = " + ".join(f"{count} x {stages}" for stages, count in sorted(working.items(), reverse=True))
        return f"{shape}, {self.idle} idle" if self.idle and self.replicas else shape

    @property
    def sessions(self) -> int:
        """That all replicas hold together."""
        return sum(replica.sessions for replica in self.replicas)

    def serves(self, load: Load) -> int:
        """Of the sessions asked for."""
        return min(self.sessions, load.sessions)

    @property
    def capacity(self) -> float:
        """The room that they have: the same, but for what is left of their time, which counts as parts of sessions."""
        return sum(replica.capacity for replica in self.replicas)

    @property
    def rows_per_s(self) -> float:
        """Rows of DiT work a second."""
        return sum(replica.rows_per_s for replica in self.replicas)

    @property
    def chunk_s(self) -> float:
        """What a chunk takes in the slowest replica, when nothing else runs."""
        return max((replica.chunk_s for replica in self.replicas), default=inf)

    @property
    def estimated(self) -> bool:
        return any(device.estimated for replica in self.replicas for device in replica.devices)


@dataclass(frozen=True, slots=True)
class Placement:
    """What to do with the devices."""

    best: Candidate | None
    """None where no division holds even one session of the load."""
    alternatives: tuple[Candidate, ...]
    """The others that were looked at, the better ones first."""
    reasons: tuple[str, ...]
    """In plain words: of the best one why it is that, then of each alternative why it is not."""


def plan(devices: Sequence[Device], shares: Shares, load: Load) -> Placement:
    """The best division of `devices` for `load`. shares: the preset's memory, for the load's steps (see shares_of).

    Raises ValueError without devices.
    """
    if not devices:
        raise ValueError("there are no devices to place anything on")
    known: dict[tuple[Device, ...], Replica | Trouble] = {}

    def candidate(sizes: Sequence[int]) -> Candidate:
        borders = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
        rings = [tuple(devices[begin:end]) for begin, end in pairwise(borders)]
        for ring in rings:
            if ring not in known:
                known[ring] = replica_of(ring, shares, load)
        return _candidate(len(devices), rings, [known[ring] for ring in rings])

    def order(one: Candidate) -> tuple[float, ...]:
        excess = min((trouble.excess for trouble in one.troubles), default=1.0)
        return -one.serves(load), -one.capacity, one.chunk_s, 0.0 if one.replicas else excess, -len(one.sizes)

    alike = sorted((candidate(sizes) for sizes in _alike(len(devices))), key=order)
    best = alike[0]
    if len(devices) <= ANY_DIVISION:
        other = min((candidate(sizes) for sizes in _all(len(devices))), key=order)
        if other.serves(load) > best.serves(load) or other.capacity > WORTH * best.capacity:
            best = other
    rest = tuple(one for one in alike if one != best)
    if not best.replicas:
        return Placement(None, (best, *rest), tuple(map(_refused, (best, *rest))))
    return Placement(best, rest, (_chosen(best, load), *(_turned_down(one, best, load) for one in rest)))


def _alike(count: int) -> Iterator[tuple[int, ...]]:
    """As many rings of one length as there can be, for every length."""
    for stages in range(1, count + 1):
        yield (stages,) * (count // stages)


def _all(count: int) -> Iterator[tuple[int, ...]]:
    """Every division of devices in a row: borders between any of them."""
    for rings in range(1, count + 1):
        for borders in combinations(range(1, count), rings - 1):
            yield tuple(end - begin for begin, end in pairwise((0, *borders, count)))


def _candidate(count: int, rings: Sequence[tuple[Device, ...]], found: Sequence[Replica | Trouble]) -> Candidate:
    replicas = tuple(one for one in found if isinstance(one, Replica))
    troubles = tuple(one for one in found if isinstance(one, Trouble))
    working = sum(len(replica.devices) for replica in replicas)
    return Candidate(tuple(map(len, rings)), replicas, troubles, count - working)


_BOUND = {
    "memory": "no memory for a further one",
    "speed": "no time for a further one",
    "budget": "a further one would be late",
}


def _chosen(best: Candidate, load: Load) -> str:
    holds = f"{best.sessions} of the {load.sessions}" if best.sessions < load.sessions else f"{best.sessions}"
    sessions = "session" if holds == "1" else "sessions"
    bounds = " or ".join(dict.fromkeys(_BOUND[replica.bound] for replica in best.replicas))
    return f"{best.name}: holds {holds} {sessions}; a chunk takes {best.chunk_s:.2f} s of {load.room_s:.2f}; {bounds}"


def _turned_down(one: Candidate, best: Candidate, load: Load) -> str:
    if not one.replicas:
        return _refused(one)
    if one.serves(load) < best.serves(load):
        return f"{one.name}: holds {one.sessions} of the {load.sessions} sessions"
    if one.capacity < ALIKE * best.capacity:
        return f"{one.name}: room for {one.capacity:.1f} sessions instead of {best.capacity:.1f}"
    if ALIKE * one.chunk_s > best.chunk_s:
        return f"{one.name}: a chunk takes {one.chunk_s:.3f} s instead of {best.chunk_s:.3f}"
    return f"{one.name}: as good, but a lost device would end more sessions"


def _refused(one: Candidate) -> str:
    nearest = min(one.troubles, key=lambda trouble: trouble.excess)
    return f"{one.name}: {nearest.text}"
