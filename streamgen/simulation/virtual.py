"""Time that passes as fast as there is work for it: an event loop that never sleeps."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TURN_S = 1e-9
"""What a turn of the loop takes. Loops fire timers up to their clock's resolution early: whoever then finds that it is
too early, and sets the timer again, must not find the same time again."""


class Skipping(selectors.SelectSelector):
    """Waits for nothing: the time that would be waited has gone by at once."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        """Seconds since the loop began."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing ever comes from outside."""
        assert timeout is not None, "everybody waits, and nothing is going to happen"
        self.time += max(TURN_S, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers fire at once, in their order; its time is theirs. Not for threads or sockets."""

    def __init__(self) -> None:
        self._skipping = Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Virtual seconds since the loop began."""
        return self._skipping.time


class LoopClock:
    """The time of an event loop, virtual or real."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        """Seconds."""
        return self._loop.time()


def run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to, in virtual time from 0 on."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
