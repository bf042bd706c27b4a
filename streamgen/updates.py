"""Changes of a session's parameters on their way to the first chunk that has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Updates:
    """Parameter changes that wait for the chunk from which they hold. Each future is resolved, whatever happens."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[int], asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, next_frame: Callable[[], int], timeout_s: float) -> asyncio.Future[int]:
        """A future for the next `resolve`, or for `next_frame()` where none comes within `timeout_s`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._waiting[future] = loop.call_later(timeout_s, lambda: self._expire(future, next_frame()))
        return future

    def resolve(self, frame: int) -> None:
        """All changes made so far hold from `frame` on."""
        for future in self._take():
            future.set_result(frame)

    def fail(self, error: Exception) -> None:
        """There is nothing any more that they could hold for."""
        for future in self._take():
            future.set_exception(error)
            future.exception()  # nobody may be waiting

    def _expire(self, future: asyncio.Future[int], frame: int) -> None:
        del self._waiting[future]
        if not future.done():
            future.set_result(frame)

    def _take(self) -> list[asyncio.Future[int]]:
        waiting, self._waiting = self._waiting, {}
        for timer in waiting.values():
            timer.cancel()
        return [future for future in waiting if not future.done()]
