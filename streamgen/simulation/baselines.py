"""What the policy is compared with: planners that know no deadline, and a queue that drops nothing."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from streamgen.core import Frame
from streamgen.inbox import Inbox
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import CostModel
from streamgen.scheduler.policy import Chunk, Plan, SessionView

PATIENCE_S = 0.25
"""A fixed batch that does not fill is run all the same, once its oldest chunk has waited for so long (s)."""


class Backlog(Inbox):
    """Frames that wait without bound: none is ever displaced. Planners see the oldest only."""

    def __init__(self, seen: int) -> None:
        super().__init__(capacity=1 << 60)
        self._seen = seen

    def __iter__(self) -> Iterator[Frame]:
        return itertools.islice(self._frames, self._seen)

    def take(self, ids: Collection[int]) -> list[Frame]:
        """As an inbox does; the frames are its oldest."""
        taken = [self._frames.popleft() for _ in range(min(len(ids), len(self._frames)))]
        self._due = self._frames[0].deadline if self._frames else None
        return taken

    def clear(self) -> list[Frame]:
        """Removes all frames, and gives them."""
        return self.take(range(len(self._frames)))

    def overdue(self, now: float) -> int:
        """How many of its frames cannot be in time any more."""
        return sum(1 for frame in self._frames if frame.deadline < now)


class _Whole(NamedTuple):
    """A chunk of as many frames as the model takes."""

    arrived: float
    """When its last frame came (s)."""
    view: SessionView


def fifo(now: float, sessions: Sequence[SessionView], cost: CostModel, capacity: Capacity) -> Plan:
    """Whole chunks one by one, in the order in which they came: the paper's code, which knows one stream at a time."""
    whole = _whole(sessions)
    return _together(now, whole[:1], cost, capacity) if whole else Plan()


def batched(now: float, sessions: Sequence[SessionView], cost: CostModel, capacity: Capacity) -> Plan:
    """Whole chunks in the order in which they came, as many of a shape together as the device takes.

    With a Backlog as inbox this is what a server without deadlines does; with the session's own the newest frames win.
    """
    whole = _whole(sessions)
    if not whole:
        return Plan()
    return _together(now, _alike(whole, capacity.max_batch), cost, capacity)


def fixed_batch(now: float, sessions: Sequence[SessionView], cost: CostModel, capacity: Capacity) -> Plan:
    """As batched, but no batch runs before it has as many chunks as the device takes, or has waited long."""
    whole = _whole(sessions)
    for start in range(len(whole)):
        batch = _alike(whole[start:], capacity.max_batch)
        if len(batch) == capacity.max_batch or now - batch[0].arrived >= PATIENCE_S - 1e-6:
            return _together(now, batch, cost, capacity)
    return Plan(wake=whole[0].arrived + PATIENCE_S if whole else None)


def _whole(sessions: Sequence[SessionView]) -> list[_Whole]:
    """In the order of arrival."""
    whole = [
        _Whole(view.frames[view.wanted - 1].deadline - view.budget, view)
        for view in sessions
        if len(view.frames) >= view.wanted
    ]
    return sorted(whole, key=lambda chunk: (chunk.arrived, chunk.view.session))


def _alike(whole: Sequence[_Whole], most: int) -> list[_Whole]:
    """The first, and those of its shape."""
    shape = whole[0].view.shape
    return [chunk for chunk in whole if chunk.view.shape == shape][:most]


def _together(now: float, batch: Sequence[_Whole], cost: CostModel, capacity: Capacity) -> Plan:
    views = [chunk.view for chunk in batch]
    steps = [view.steps for view in views]
    chunks = [Chunk(view.session, tuple(frame.id for frame in view.frames[: view.wanted])) for view in views]
    ends = capacity.ends(now, cost.rates(views[0].shape), len(views), max(steps), sum(steps))
    return Plan(tuple(chunks), shape=views[0].shape, ends=ends)
