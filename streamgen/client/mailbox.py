"""A bounded queue in which the newest win: the cure for a reader that is slower than a live stream."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """At most `capacity` items; putting one more drops the oldest and counts it. One reader, one event loop.

    Invariant: 0 <= len <= capacity, and put = taken + skipped + len.

        put --> [ oldest ... newest ] --> take
                    |
                 skipped
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._closed = False
        self._changed = asyncio.Event()
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def closed(self) -> bool:
        """Whether `close` was called; items may be left."""
        return self._closed

    def put(self, item: T) -> None:
        """Never waits. What is put after `close` is dropped silently: nobody is to read it."""
        if self._closed:
            return
        if len(self._items) == self._capacity:
            self._items.popleft()
            self.skipped += 1
        self._items.append(item)
        self._changed.set()

    async def take(self) -> T | None:
        """The oldest item, waiting for one; None when the mailbox is closed and empty."""
        while not self._items:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()

    def close(self) -> None:
        """No more items come; what lies here can still be taken."""
        self._closed = True
        self._changed.set()
