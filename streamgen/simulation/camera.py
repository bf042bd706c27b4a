"""What brings a session's frames, as rtc/intake.py does, at given times."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from fractions import Fraction

from streamgen.core import Frame
from streamgen.rtc.pacing import Decimator
from streamgen.session import Session
from streamgen.simulation.engine import blank
from streamgen.simulation.trace import Arrival

TIME_BASE = Fraction(1, 90000)
TICKS = TIME_BASE.denominator


class Camera:
    """Puts frames into a session from `start` to `stop`. Frames are at once in the session's size."""

    def __init__(self, session: Session, arrivals: Iterator[Arrival]) -> None:
        self._session = session
        self._arrivals = arrivals
        self._decimator = Decimator()
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Frames come from now on."""
        arrival = next(self._arrivals)
        self._next = self._loop.call_at(arrival.at, self._came, arrival)

    def stop(self) -> None:
        """No more frames."""
        if self._next is not None:
            self._next.cancel()

    def _came(self, arrival: Arrival) -> None:
        self._sort(arrival)
        self.start()

    def _sort(self, arrival: Arrival) -> None:
        session = self._session
        now = self._loop.time()
        frame_id = session.came_in()
        if session.state == "queued":
            session.give_up("queued")
            return
        running = session.running
        if not self._decimator.take(arrival.media, running.fps):
            session.give_up("rate")
            return
        pixels = blank(1, running.height, running.width)[0]
        deadline = now + running.slo_ms / 1000
        session.put(Frame(frame_id, round(arrival.media * TICKS), TIME_BASE, now, deadline, pixels))
