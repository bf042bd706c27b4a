"""Frames of one session that wait for the model: few, and the newest win."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

from streamgen.core import Frame


class Inbox:
    """A bounded queue that makes room by giving up its oldest frame.

    Invariant: at most `capacity` frames, ids strictly increasing from oldest to newest:

        oldest [ 7 ][ 8 ][ 10 ][ 11 ] newest
    """

    def __init__(self, capacity: int) -> None:
        assert capacity > 0
        self._capacity = capacity
        self._frames: deque[Frame] = deque()
        self._due: float | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)

    @property
    def due(self) -> float | None:
        """Deadline of the first frame that came since the last `take`, even if it was displaced since (s).

        A session whose old frames are always displaced by new ones grows more urgent by this, instead of never.
        """
        return self._due

    def put(self, frame: Frame) -> list[Frame]:
        """Queues `frame` as the newest; gives the frames that it displaces."""
        assert not self._frames or frame.id > self._frames[-1].id, "frames come in the order of their ids"
        self._frames.append(frame)
        if self._due is None:
            self._due = frame.deadline
        return [self._frames.popleft() for _ in range(len(self._frames) - self._capacity)]

    def take(self, ids: Collection[int]) -> list[Frame]:
        """Removes the frames `ids` to be run, and gives them oldest first."""
        taken = self.remove(ids)
        self._due = self._frames[0].deadline if self._frames else None
        return taken

    def remove(self, ids: Collection[int]) -> list[Frame]:
        """Removes the frames `ids` that will not be run, and gives them oldest first."""
        removed = [frame for frame in self._frames if frame.id in ids]
        self._frames = deque(frame for frame in self._frames if frame.id not in ids)
        return removed

    def clear(self) -> list[Frame]:
        """Removes all frames, and gives them."""
        return self.take([frame.id for frame in self._frames])
