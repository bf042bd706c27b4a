"""The policy: from what is queued to what runs now. Pure: no clock, no I/O, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streamgen.engine.work import Mode
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.chunks import MARGIN, careful, chunk_length, mode_of
from streamgen.scheduler.cost import CostModel, Rates, Shape

SAVES = 0.05
"""A chunk joins a batch where that saves this share of its cost by itself; else it would only make the others wait."""

HANDOVER_S = 0.015
"""Of a frame's budget this goes into scaling it, pacing and handing over (s)."""

STEADY = 0.02
"""A session that loses a larger share of its frames does not get a turn for every chunk."""

LOST_S = 100.0
"""A session that loses all its frames goes before others as if its deadlines were earlier by this (s): far more than
budgets differ by, so that under overload all lose the same share."""

FLUSH_S = 0.02
"""What a stream batch holds is finished this long before it would be late (s)."""

NEVER = float("inf")


class Queued(NamedTuple):
    """A frame that waits."""

    id: int
    deadline: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class SessionView:
    """What the policy has to know of a session."""

    session: str
    frames: tuple[Queued, ...]
    """Oldest first."""
    wanted: int
    """Most frames of its next chunk."""
    due: float
    """Deadline of the first frame that came since its last chunk, dropped or not (s): what sessions are ordered by.
    Where none came yet, of the one that comes next."""
    budget: float
    """Latency budget of a frame (s)."""
    interval: float
    """Between frames (s)."""
    steps: int
    shape: Shape
    """Of its chunk."""
    mode: Mode = "sequential"
    """How its last chunk was run."""
    held_due: float | None = None
    """Deadline of the oldest frame that is held in the stream batch (s)."""
    lost: float = 0.0
    """Share of its frames that were lost lately, for want of time."""
    batch: bool = False
    """No deadlines: it fills what the others leave idle."""
    alone: bool = False
    """It failed in company: run it by itself, so that it can harm no other."""
    busy: bool = False
    """As many chunks of it run now as may: the next one cannot, and is only thought of."""


class Chunk(NamedTuple):
    """Frames of one session to run now, oldest first; none to finish what the stream batch holds of it."""

    session: str
    frames: tuple[int, ...]
    mode: Mode = "sequential"


class Drop(NamedTuple):
    """A frame to give up."""

    session: str
    frame: int
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. Every queued frame is in it at most once, as run or as dropped."""

    chunks: tuple[Chunk, ...] = ()
    """One batch."""
    drops: tuple[Drop, ...] = ()
    shape: Shape | None = None
    """Of the batch; None where nothing runs."""
    ends: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """When encoder, denoiser and decoder will be done with the batch, as far as the model knows (s)."""
    wake: float | None = None
    """When to plan again, even if nothing comes (s)."""


class _Load(NamedTuple):
    """The work of a batch."""

    chunks: int
    calls: int
    rows: int


class _Times(NamedTuple):
    """When a batch is done and another can follow it, or when they have to be (s)."""

    done: float
    free: float

    def keeps(self, due: _Times) -> bool:
        """Whether neither is later."""
        return self.done <= due.done and self.free <= due.free


class _Terms(NamedTuple):
    """What is the same for all sessions of one shape and number of steps, with the margin for the model's error."""

    rates: Rates
    service: float
    """Of a chunk alone (s)."""
    end: float
    """Of a chunk alone that begins now (s)."""
    full_end: float
    """Of as many chunks as a batch holds (s)."""
    flows: bool
    """Whether chunks flow: then nothing is gained by a stream batch."""


class _Ready(NamedTuple):
    """A chunk that could run now. Sorts by urgency. Of many that could few do: what is not compared is made later."""

    batch: bool
    urgency: float
    session: str
    deadline: float
    """When its batch has to be done; never where it is late whatever is done, or has no deadlines (s)."""
    view: SessionView
    late: int
    """Of the session's frames the chunk begins behind so many."""
    length: int
    """Frames; none to finish what the stream batch holds."""
    its: _Terms

    @property
    def mode(self) -> Mode:
        """What a stream batch holds waits for the session's next turn: where that may not come, nothing is held."""
        view, length = self.view, self.length
        if self.its.flows or view.steps == 1 or not length or view.lost > STEADY:
            return "sequential"
        fill = (length - 1) * view.interval
        budget = view.budget if not view.batch else NEVER
        return mode_of(view.steps, length * view.interval, fill, budget, self.its.rates, view.mode)

    @property
    def chunk(self) -> Chunk:
        """As it is to run."""
        frames = self.view.frames[self.late : self.late + self.length]
        return Chunk(self.session, tuple([frame.id for frame in frames]), self.mode)

    @property
    def load(self) -> _Load:
        """By itself."""
        steps = self.view.steps
        return _Load(1, steps if self.mode == "sequential" else 1, steps)


def plan(now: float, sessions: Sequence[SessionView], cost: CostModel, capacity: Capacity) -> Plan:
    """Gives up frames that cannot be in time, then batches the sessions that are ready, earliest deadline first.

    `now` is on the clock of the deadlines (s). The batch is the most urgent chunk and those that can join it at a gain,
    while every one of them, and who waits for them, is as much in time as it would be without the others. Who has lost
    more of his frames than others goes before them.
    """
    drops: list[Drop] = []
    ready: list[_Ready] = []
    wakes: list[float] = []
    terms = _all_terms(now, sessions, cost, capacity)
    for view in [view for view in sessions if not view.busy]:
        its = terms[view.shape, view.steps]
        length = _length(view, its)
        late = 0 if view.batch else _late(view, length, its)
        if late:
            drops.extend([Drop(view.session, frame.id, "late") for frame in view.frames[:late]])
        if len(view.frames) - late >= length:
            ready.append(_chunk_of(view, late, length, its))
        elif len(view.frames) > late or view.held_due is not None:
            run_at = _runs_at(view, late, its)
            if run_at <= now:
                ready.append(_unfinished(view, late, its))
            elif run_at < NEVER:
                wakes.append(run_at)
    wake = min(wakes, default=None)
    if not ready:
        return Plan(drops=tuple(drops), wake=wake)
    ready.sort()
    first = ready[0]
    if first.batch and _would_be_late(now, sessions, terms, first, capacity):
        return Plan(drops=tuple(drops), wake=wake)
    batch, load = _batch(now, ready, capacity)
    ends = capacity.ends(now, first.its.rates, *load)
    return Plan(tuple([entry.chunk for entry in batch]), tuple(drops), first.view.shape, ends, wake)


def _length(view: SessionView, its: _Terms) -> int:
    return chunk_length(view.wanted, view.interval, NEVER if view.batch else view.budget, its.service)


def _whole_at(view: SessionView, length: int) -> float:
    """When the session's chunk will have all its frames, as far as can be foreseen (s)."""
    count = len(view.frames)
    newest = view.frames[-1].deadline - view.budget if view.frames else view.due - view.budget - view.interval
    return newest + (length - count) * view.interval


def _runs_at(view: SessionView, late: int, its: _Terms) -> float:
    """When what there is has to run although the chunk is not whole, as it would be late if it waited (s).

    A shorter chunk is dearer work, which is only done for a session that loses nothing otherwise.
    """
    if len(view.frames) == late:
        return NEVER if view.held_due is None else view.held_due - its.service - FLUSH_S
    run_at = view.frames[late].deadline - its.service - HANDOVER_S - FLUSH_S
    return NEVER if view.batch or view.lost > STEADY else run_at


def _unfinished(view: SessionView, late: int, its: _Terms) -> _Ready:
    """The frames that there are as a chunk; where there are none, what the stream batch holds."""
    if len(view.frames) > late:
        return _chunk_of(view, late, len(view.frames) - late, its)
    assert view.held_due is not None, "something has to be run"
    return _entry(view, view.held_due, view.held_due, 0, 0, its)


def _all_terms(
    now: float, sessions: Sequence[SessionView], cost: CostModel, capacity: Capacity
) -> dict[tuple[Shape, int], _Terms]:
    kinds = {(view.shape, view.steps): view for view in sessions}
    return {kind: _terms(now, view, cost, capacity) for kind, view in kinds.items()}


def _terms(now: float, view: SessionView, cost: CostModel, capacity: Capacity) -> _Terms:
    rates, steps = cost.rates(view.shape), view.steps
    service = careful(rates.sequential(steps), rates)
    most = capacity.max_batch
    ends = [capacity.ends(now, rates, chunks, steps, chunks * steps)[2] for chunks in (1, most)]
    margins = [MARGIN * rates.error * rates.batch(chunks, steps, chunks * steps) for chunks in (1, most)]
    end, full_end = (end + margin + HANDOVER_S for end, margin in zip(ends, margins, strict=True))
    return _Terms(rates, service, end, full_end, capacity.flows)


def _late(view: SessionView, length: int, its: _Terms) -> int:
    """How many of the session's oldest frames to give up.

    Giving up late frames pays only where fresher ones can be in time. Where even a fresh chunk could not be (the budget
    is smaller than what filling and running a chunk takes), the newest chunk runs all the same, and counts as missed.

    A session that loses frames anyway, and has more than a chunk of them, rather loses those that could not be in time
    in a batch: in one more of its frames, or another's, are.
    """
    frames = view.frames
    if not frames or frames[0].deadline >= its.full_end:
        return 0
    late = sum([frame.deadline < its.end for frame in frames])
    spare = len(frames) - length
    if late < spare and view.lost > STEADY:
        late = min(spare, sum([frame.deadline < its.full_end for frame in frames]))
    elif (length - 1) * view.interval + its.service + HANDOVER_S > view.budget:
        late = min(late, max(0, spare))
    return late


def _chunk_of(view: SessionView, late: int, length: int, its: _Terms) -> _Ready:
    """The session's chunk of `length` frames, without those that are late."""
    due, deadline = view.due, view.frames[late].deadline
    if view.held_due is not None:
        due, deadline = min(due, view.held_due), min(deadline, view.held_due)
    if view.batch or deadline < its.end:
        deadline = NEVER
    return _entry(view, due, deadline, late, length, its)


def _entry(view: SessionView, due: float, deadline: float, late: int, length: int, its: _Terms) -> _Ready:
    return _Ready(view.batch, due - LOST_S * view.lost, view.session, deadline, view, late, length, its)


def _would_be_late(
    now: float,
    sessions: Sequence[SessionView],
    terms: dict[tuple[Shape, int], _Terms],
    first: _Ready,
    capacity: Capacity,
) -> bool:
    """Whether a live session whose chunk is not whole yet would be late if a batch job's chunk ran now."""
    end = capacity.follows(capacity.ends(now, first.its.rates, *first.load))
    for view in sessions:
        if not view.batch:
            its = terms[view.shape, view.steps]
            whole_at = max(now, _whole_at(view, _length(view, its)))
            if whole_at + its.service <= view.due < max(whole_at, end) + its.service:
                return True
    return False


def _batch(now: float, ready: Sequence[_Ready], capacity: Capacity) -> tuple[list[_Ready], _Load]:
    """The most urgent chunk, and others that can join it: while that saves, and all that could be in time still are,
    those in the batch, and those that wait for its end and have not lost others of their frames already.
    """
    first = ready[0]
    rates, mode = first.its.rates, first.mode
    batch, load = [first], first.load
    if first.view.alone or capacity.max_batch == 1 or not first.length:
        return batch, load

    def surely(load: _Load) -> _Times:
        ends, margin = capacity.ends(now, rates, *load), MARGIN * rates.error * rates.batch(*load)
        return _Times(ends[2] + margin + HANDOVER_S, capacity.follows(ends) + margin + HANDOVER_S)

    at, due = surely(load), _Times(first.deadline, NEVER)
    for entry in ready[1:]:
        alike = entry.view.shape == first.view.shape and entry.length and not entry.view.alone and entry.mode == mode
        grown = _grown(load, entry.load) if alike else None
        then = None if grown is None else surely(grown)
        if grown is None or then is None or then.done > entry.deadline:
            begins = entry.deadline - entry.its.service
            if at.free <= begins and entry.view.lost <= STEADY:
                due = due._replace(free=min(due.free, begins))
        elif (at.keeps(due) and not then.keeps(due)) or not _saves(rates, load, grown, entry.load):
            break
        else:
            batch.append(entry)
            load, at, due = grown, then, due._replace(done=min(due.done, entry.deadline))
            if len(batch) == capacity.max_batch:
                break
    return batch, load


def _saves(rates: Rates, load: _Load, grown: _Load, alone: _Load) -> bool:
    """Whether a batch that has grown costs less than what it was and what was added, by itself."""
    return rates.batch(*grown) <= rates.batch(*load) + (1 - SAVES) * rates.batch(*alone)


def _grown(load: _Load, other: _Load) -> _Load:
    """Chunks of a batch are denoised together, and leave it one by one."""
    return _Load(load.chunks + other.chunks, max(load.calls, other.calls), load.rows + other.rows)
