"""Finished frames of one session on their way to the client: a short queue that never grows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from streamgen.core import Frame


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A frame with its result as pixels."""

    frame: Frame
    at: float
    """When it came out of the engine (s on the session's clock)."""


class Outbox:
    """A bounded queue from the scheduler to the one output track; makes room by giving up its oldest frame.

    A frame stays in its place until it is handed over, so that it can still be taken back while it waits for its time.
    """

    def __init__(self, capacity: int) -> None:
        assert capacity > 0
        self._capacity = capacity
        self._queue: deque[Finished] = deque()
        self._news = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, frames: Sequence[Frame], now: float) -> list[Frame]:
        """Queues results, oldest first; gives the frames that they displace."""
        assert not self._closed
        self._queue.extend(Finished(frame, now) for frame in frames)
        self._news.set()
        return [self._queue.popleft().frame for _ in range(len(self._queue) - self._capacity)]

    async def first(self) -> Finished | None:
        """The oldest result, as soon as there is one; None once the outbox is closed."""
        while not self._queue and not self._closed:
            self._news.clear()
            await self._news.wait()
        return self._queue[0] if self._queue else None

    def remove(self, finished: Finished) -> bool:
        """Takes `finished` out; False where it is not there any more."""
        if finished not in self._queue:
            return False
        self._queue.remove(finished)
        return True

    def clear(self) -> list[Frame]:
        """Removes all frames, and gives them."""
        frames = [finished.frame for finished in self._queue]
        self._queue.clear()
        return frames

    def close(self) -> list[Frame]:
        """Ends the wait of `first` for good; gives the frames that were left."""
        self._closed = True
        self._news.set()
        return self.clear()
