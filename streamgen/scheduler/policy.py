"""The policy: from what is queued to what runs now. Pure: no clock, no I/O, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from streamgen.scheduler.cost import CostModel, Shape

Mode = Literal["sequential", "stream_batch"]


@dataclass(frozen=True, slots=True)
class Queued:
    """A frame that waits."""

    id: int
    deadline: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class SessionView:
    """What the policy has to know of a session."""

    session: str
    wanted: int
    """Frames that make its next chunk."""
    frames: tuple[Queued, ...]
    """Oldest first."""
    due: float
    """Deadline of the first frame that came since its last chunk, dropped or not (s): what sessions are ordered by."""
    budget: float
    """Latency budget of a frame (s)."""
    interval: float
    """Time between frames (s)."""
    steps: int
    width: int
    height: int
    alone: bool = False
    """It failed in company: run it by itself, so that it can harm no other."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan may use."""

    cost: CostModel
    max_batch: int = 1
    """Sessions in one batch."""
    mode: Mode = "sequential"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames of one session to run now, oldest first."""

    session: str
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """A frame to give up."""

    session: str
    frame: int
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. Every queued frame is in it at most once, as run or as dropped."""

    chunks: tuple[Chunk, ...] = ()
    drops: tuple[Drop, ...] = ()
    mode: Mode = "sequential"
    shape: Shape | None = field(default=None)
    """Of the batch; None where nothing runs."""


def plan(now: float, sessions: Sequence[SessionView], limits: Limits) -> Plan:
    """Gives up frames that cannot be in time, then batches the sessions that are ready, earliest deadline first.

    `now` is on the clock of the deadlines (s).
    """
    drops: list[Drop] = []
    ready: list[SessionView] = []
    kept: dict[str, tuple[Queued, ...]] = {}
    for view in sessions:
        late = _late(now, view, limits.cost)
        drops.extend(Drop(view.session, frame.id, "late") for frame in view.frames[:late])
        kept[view.session] = view.frames[late:]
        if len(kept[view.session]) >= view.wanted:
            ready.append(view)
    batch = _batch(now, sorted(ready, key=lambda view: (view.due, view.session)), limits)
    chunks = tuple(Chunk(view.session, tuple(f.id for f in kept[view.session][: view.wanted])) for view in batch)
    return Plan(chunks, tuple(drops), limits.mode, _shape(batch[0], len(batch)) if batch else None)


def _shape(view: SessionView, chunks: int) -> Shape:
    return Shape(chunks, view.wanted, view.steps, view.width, view.height)


def _late(now: float, view: SessionView, cost: CostModel) -> int:
    """How many of the session's oldest frames to give up.

    Giving up late frames pays only where fresher ones can be in time. Where even a fresh chunk could not be (the budget
    is smaller than what filling and running a chunk takes), the newest chunk runs all the same, and counts as missed.
    """
    service = cost.estimate(_shape(view, 1))
    late = sum(frame.deadline - service < now for frame in view.frames)
    if (view.wanted - 1) * view.interval + service > view.budget:
        late = min(late, max(0, len(view.frames) - view.wanted))
    return late


def _batch(now: float, ready: Sequence[SessionView], limits: Limits) -> list[SessionView]:
    """The most urgent session, and as many equal ones as the batch may hold without making one of them late."""
    if not ready:
        return []
    batch = [ready[0]]
    for view in ready[1:]:
        if len(batch) >= limits.max_batch or batch[0].alone:
            break
        if view.alone or _shape(view, 1) != _shape(batch[0], 1):
            continue
        done = now + limits.cost.estimate(_shape(view, len(batch) + 1))
        alone = now + limits.cost.estimate(_shape(view, 1))
        if any(alone <= member.due < done for member in [*batch, view]):
            break
        batch.append(view)
    return batch
