"""Who is in, who waits, and at which rung everyone runs: carries out what governor and waiting room decide."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from streamgen.errors import BusyError, ParamsError
from streamgen.scheduler import demand as demand_
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import CostModel
from streamgen.scheduler.demand import Demand
from streamgen.scheduler.governor import Governor
from streamgen.scheduler.stream import Stream
from streamgen.scheduler.waiting import Waiter, WaitingRoom

RETRY_S = (1, 5, 120)
"""A client that finds the queue full is asked to come again after the estimate, within first and last; without an
estimate after the middle one."""

MOST_ROOM = 64
"""More room than for so many sessions is not told of."""

TELL_S = 5.0
"""Those who wait are told anew at least this often."""


@dataclass(slots=True)
class Member:
    """A stream that was admitted."""

    stream: Stream
    since: float
    """When (s)."""


class Roster:
    """All streams: each is either a member or waits. Belongs to the loop; is told the time."""

    def __init__(self, max_waiting: int) -> None:
        """`max_waiting`: how many may wait; who comes then is refused."""
        self.governor = Governor()
        self._max_waiting = max_waiting
        self._members: dict[str, Member] = {}
        self._room = WaitingRoom()
        self._waiting: dict[str, Stream] = {}
        self._told: dict[str, tuple[int, float]] = {}
        """Position last told, and when (s)."""

    def __iter__(self) -> Iterator[Stream]:
        """The members."""
        return (member.stream for member in self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    @property
    def everyone(self) -> list[Stream]:
        """Members, and those who wait."""
        return [*self, *self._waiting.values()]

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def get(self, session: str) -> Stream | None:
        """The member of this id."""
        member = self._members.get(session)
        return member.stream if member else None

    def enter(self, now: float, stream: Stream, cost: CostModel, capacity: Capacity, *, may_wait: bool = True) -> None:
        """Admits the stream, or has it wait. Raises BusyError where it may not, or too many wait already."""
        demand = stream.demand()
        check_memory(demand, capacity)
        if not self._goes_after_others(demand) and self._has_room(now, demand, cost, capacity):
            self._admit(now, stream)
        elif may_wait and self._may_wait(stream.client):
            self._wait(now, stream)
        else:
            raise BusyError("no room for another session now; try again later", self._retry_after())
        self.govern(now, cost, capacity)

    def leave(self, now: float, stream: Stream) -> None:
        """The stream is over, or gave up waiting."""
        self._room.leave(stream.id)
        self._waiting.pop(stream.id, None)
        self._told.pop(stream.id, None)
        member = self._members.pop(stream.id, None)
        if member is not None:
            self._room.left(now - member.since)

    def check(self, stream: Stream, demand: Demand, cost: CostModel, capacity: Capacity) -> None:
        """Whether the stream may ask for `demand` instead of what it asks for: less always, more where promises hold.

        Raises BusyError where they would not at any rung, ParamsError where it would not fit into memory at all.
        """
        check_memory(demand, capacity)
        if stream.id not in self._members:
            return
        others = [member.stream.demand() for member in self._members.values() if member.stream is not stream]
        if self.governor.admits(demand, others, cost, capacity):
            return
        now, then = (demand_.least(asked, cost, capacity) for asked in (stream.demand(), demand))
        if any(after > before for before, after in zip(now, then, strict=True)):
            raise BusyError("that is more than the present load leaves room for", self._retry_after())

    def room(self, demand: Demand, cost: CostModel, capacity: Capacity) -> int:
        """How many more live sessions that ask for `demand` would be admitted now; counted up to MOST_ROOM.

        Found by halving: where there is room for some, there is for fewer.
        """
        if any(not stream.demand().batch for stream in self._waiting.values()):
            return 0
        others = [stream.demand() for stream in self if not stream.demand().batch]
        newcomers = [replace(demand, session=f"newcomer {number}") for number in range(MOST_ROOM)]
        low, high = 0, MOST_ROOM
        while low < high:
            middle = (low + high + 1) // 2
            asked, before = newcomers[middle - 1], newcomers[: middle - 1]
            if self.governor.admits(asked, [*others, *before], cost, capacity):
                low = middle
            else:
                high = middle - 1
        return low

    def promised(self, cost: CostModel, capacity: Capacity) -> float:
        """Share of the device's time that the members' promises take."""
        kept = [demand for demand in self._demands() if demand.session not in self.governor.hopeless]
        return demand_.use(kept, self.governor.levels, cost, capacity)

    def govern(self, now: float, cost: CostModel, capacity: Capacity) -> None:
        """Sets all rungs, lets in who has room, and tells those who wait."""
        self._set_rungs(now, cost, capacity)
        if self._waiting and self._let_in(now, cost, capacity):
            self._set_rungs(now, cost, capacity)
        self._tell(now)

    def _set_rungs(self, now: float, cost: CostModel, capacity: Capacity) -> None:
        tallies = sorted((member.stream.tally() for member in self._members.values()), key=lambda tally: tally[1])
        if len(tallies) > 1:  # what one alone loses is its own affair: the device's want of time is shared by all
            tallies.pop()
        before = self.governor.levels
        self.governor = self.governor.governed(
            now,
            self._demands(),
            cost,
            capacity,
            frames=sum(frames for frames, _ in tallies),
            missed=sum(missed for _, missed in tallies),
        )
        for stream in self:
            rung = self.governor.levels[stream.id]
            reason = "load" if rung > before.get(stream.id, 0) else "room"
            stream.run_at(rung, reason, stream.id not in self.governor.hopeless)

    def _let_in(self, now: float, cost: CostModel, capacity: Capacity) -> bool:
        """Those next in line, as far as there is room for them; whether there was for any."""
        count = len(self)
        for waiter in self._room.order(self._held()):
            stream = self._waiting[waiter.session]
            if not self._has_room(now, stream.demand(), cost, capacity):
                break
            self._room.leave(stream.id)
            del self._waiting[stream.id]
            self._told.pop(stream.id, None)
            self._admit(now, stream)
        return len(self) > count

    def _tell(self, now: float) -> None:
        for position, waiter in enumerate(self._room.order(self._held()), 1):
            told, at = self._told.get(waiter.session, (0, 0.0))
            if position != told or now - at >= TELL_S:
                self._told[waiter.session] = position, now
                self._waiting[waiter.session].waiting(position, self._room.estimate(position, len(self)))

    def _may_wait(self, client: str) -> bool:
        """Nobody takes more than half of the queue, as far as it is known who is who."""
        of_client = sum(stream.client == client for stream in self._waiting.values()) if client else 0
        return len(self._waiting) < self._max_waiting and of_client < max(1, self._max_waiting / 2)

    def _goes_after_others(self, demand: Demand) -> bool:
        """Whether somebody waits whose turn is before a newcomer's: nobody overtakes, but live sessions batch jobs."""
        return any(demand.batch or not stream.demand().batch for stream in self._waiting.values())

    def _has_room(self, now: float, demand: Demand, cost: CostModel, capacity: Capacity) -> bool:
        """Whether there is room for `demand`; for a live session batch jobs make some, the newest first."""
        jobs = [] if demand.batch else [stream for stream in self if stream.demand().batch][::-1]
        for count in range(len(jobs) + 1):
            others = [stream.demand() for stream in self if stream not in jobs[:count]]
            if self.governor.admits(demand, others, cost, capacity):
                for job in jobs[:count]:
                    del self._members[job.id]
                    self._wait(now, job)
                return True
        return False

    def _wait(self, now: float, stream: Stream) -> None:
        self._waiting[stream.id] = stream
        self._room.enter(Waiter(stream.id, stream.client, stream.demand().batch, now))

    def _admit(self, now: float, stream: Stream) -> None:
        self._members[stream.id] = Member(stream, now)
        stream.admitted()

    def _demands(self) -> list[Demand]:
        return [member.stream.demand() for member in self._members.values()]

    def _held(self) -> Counter[str]:
        return Counter(member.stream.client for member in self._members.values())

    def _retry_after(self) -> int:
        least, usual, most = RETRY_S
        estimate = self._room.estimate(len(self._waiting) + 1, len(self))
        return usual if estimate is None else min(most, max(least, math.ceil(estimate)))


def check_memory(demand: Demand, capacity: Capacity) -> None:
    """Raises ParamsError where the stream state of `demand` fits into the device's memory not even by itself."""
    if capacity.memory is not None and demand.memory > capacity.memory:
        raise ParamsError("width", "at this size and number of steps a stream does not fit into the device's memory")
