"""What takes a session's results, as rtc/broadcast.py does: each when it is due."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from streamgen.core import Clock
from streamgen.rtc.pacing import Pacer
from streamgen.session import Session


class Shown(NamedTuple):
    """A result that was handed over."""

    at: float
    """When (s)."""
    latency: float
    """Since its frame had come (s)."""
    in_time: bool
    frame: int
    rung: int


class Screen:
    """Takes results until the session is closed, and notes them."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self.shown: list[Shown] = []
        self._session = session
        self._clock = clock
        self._pacer = Pacer()

    async def run(self) -> None:
        """Until the session is closed."""
        session, clock = self._session, self._clock
        while (finished := await session.finished()) is not None:
            frame = finished.frame
            due = self._pacer.schedule(frame.media_time, finished.at, session.latest(finished))
            if session.too_late(finished):
                session.discard(finished, "late")
                continue
            wait = due - clock.now()
            if wait > 0:
                await asyncio.sleep(wait)
            if session.hand_over(finished):
                now = clock.now()
                self.shown.append(
                    Shown(now, now - frame.arrived, now <= frame.deadline, frame.id, session.standing.rung)
                )
