"""How a session gets into a service that may be full: refused and back again, queued, let in, or neither."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from streamgen.client import Event, Queue, ServiceError, Session, StateChanged

NO_ROOM = 503
USUAL_WAIT_S, LEAST_WAIT_S = 1.0, 0.1
"""Until it is asked again: where the service does not say, and at least."""
NOT_YET = frozenset({"connecting", "reconnecting", "closed", "queued"})
"""States that do not say that a session was let in."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is reported of it; of several sessions the counts are summed, and the wait is the longest."""

    admitted: bool | int
    """Whether it was let in; of several sessions how many."""
    queued: bool | int
    """Whether it had to wait in the service's queue; of several sessions how many."""
    waited_s: float
    """From when it asked first until it was let in, or gave up; 0 where it was neither refused nor queued."""
    positions: tuple[int, ...] = ()
    """Its places in the queue, as they were told; of several sessions none."""
    refused: int = 0
    """How often there was no room, not even in the queue."""
    retries: int = 0
    """How often it asked again."""
    reason: str = ""
    """What the service said last to one that was never let in."""

    @staticmethod
    def together(sessions: Sequence[Entry]) -> Entry:
        """Those of several sessions."""
        return Entry(
            admitted=sum(session.admitted for session in sessions),
            queued=sum(session.queued for session in sessions),
            waited_s=max((session.waited_s for session in sessions), default=0.0),
            refused=sum(session.refused for session in sessions),
            retries=sum(session.retries for session in sessions),
        )


@dataclass(slots=True)
class Admission:
    """One session's way in, as it happens. Times in s on the monotonic clock."""

    admitted: float | None = None
    """When it was let in."""
    left: float | None = None
    """When it ended or gave up."""
    queued: bool = False
    positions: list[int] = field(default_factory=list)
    refused: int = 0
    retries: int = 0
    reason: str = ""

    def take(self, event: Event, now: float) -> None:
        """The service said something."""
        match event:
            case StateChanged(state):
                self.state(state, now)
            case Queue(position=position) if self.admitted is None:
                self.queued = True
                if position not in self.positions[-1:]:
                    self.positions.append(position)

    def state(self, state: str, now: float) -> None:
        """The session is in this state now."""
        if self.admitted is not None:
            return
        if state == "queued":
            self.queued = True
        elif state not in NOT_YET:
            self.admitted = now

    def got_result(self, now: float) -> None:
        """Who gets results was let in, whatever was said."""
        if self.admitted is None:
            self.admitted = now

    @property
    def waiting(self) -> bool:
        """Whether it was queued or refused, and not let in."""
        return self.admitted is None and (self.queued or self.refused > 0)

    def entry(self, asked: float) -> Entry:
        """For the report; it had asked at `asked`."""
        until = self.left if self.admitted is None else self.admitted
        waited = until - asked if until is not None and (self.queued or self.refused) else 0.0
        reason = self.reason if self.admitted is None else ""
        return Entry(not self.waiting, self.queued, waited, tuple(self.positions), self.refused, self.retries, reason)


async def enter(
    attempt: Callable[[], Awaitable[Session]],
    admission: Admission,
    patience_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Session | None:
    """The session that `attempt` opens, tried again for `patience_s` whenever there is no room (503, Retry-After).

    None where patience ends first; without any the refusal is raised. Raises what else `attempt` raises.
    """
    until = clock() + patience_s
    while True:
        try:
            return await attempt()
        except ServiceError as refusal:
            if refusal.status != NO_ROOM or not patience_s:
                raise
            admission.refused += 1
            told = USUAL_WAIT_S if refusal.retry_after_s is None else refusal.retry_after_s
            admission.reason = refusal.message
        left = until - clock()
        if left < LEAST_WAIT_S:
            return None
        await asyncio.sleep(min(max(told, LEAST_WAIT_S), left))
        admission.retries += 1
