"""The loop that carries the policy's decisions out: gather, plan, submit, deliver."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from streamgen.core import Clock
from streamgen.engine import STATE_LOST, BatchDone, ChunkDone, ChunkWork
from streamgen.errors import EngineError, WorkerDiedError
from streamgen.metrics import Metrics
from streamgen.scheduler import policy
from streamgen.scheduler.capacity import IDLE, ONE_BY_ONE, Capacity
from streamgen.scheduler.cost import UNKNOWN, CostModel
from streamgen.scheduler.demand import Demand
from streamgen.scheduler.policy import Plan, SessionView
from streamgen.scheduler.roster import Roster
from streamgen.scheduler.stream import Ran, Stream, Submission

logger = logging.getLogger(__name__)

LEAD_S = (0.004, 0.05)
"""A batch is submitted this long before the engine is free for it, so that its frames are there by then: least and most
(s). In between, as long as the way to the engine and back takes."""

LEAD_WEIGHT = 0.1

NEVER = float("-inf")

GOVERN_S = 0.5
"""Rungs and the queue are looked at this often, beside whenever somebody comes, goes, or wants something else."""

Planner = Callable[[float, Sequence[SessionView], CostModel, Capacity], Plan]
"""policy.plan, or what it is to be compared with."""


class Runner(Protocol):
    """What the loop needs of the engine."""

    @property
    def state(self) -> str:
        """Of EngineState."""
        ...

    async def ready(self) -> None:
        """Waits until batches can run. Raises EngineError where they never will."""
        ...

    async def run(self, chunks: Sequence[ChunkWork]) -> BatchDone:
        """Raises WorkerDiedError, EngineError. Several may be under way; they come back in their order or, out of a
        flow, in any in which a session's chunks keep theirs.
        """
        ...

    def forget(self, session: str) -> None:
        """Closes the session's stream state."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A chunk between submission and its result."""

    stream: Stream
    work: Submission


@dataclass(slots=True, eq=False)
class Batch:
    """Chunks that the engine has, or will take up next."""

    plan: Plan
    work: dict[int, ChunkWork]
    """By tag."""
    began: float
    """When it was submitted (s)."""
    ends: tuple[float, float, float]
    """When encoder, denoiser and decoder will be done with it, as far as is known by now (s)."""
    beside: int
    """Batches that the engine had then. What comes behind this one does not hold it up, but in a flow."""


class Loop:
    """Runs the chunks of all streams, as many batches at once as the engine takes.

    Every submitted chunk is in `_flights` until its stream has been told of its result or its loss, exactly once; a
    session has at most one chunk in the batches under way, beside what the engine's stream batch holds of it, or
    capacity.flight of them in a flow.
    """

    def __init__(
        self,
        engine: Runner,
        clock: Clock,
        metrics: Metrics,
        capacity: Capacity = ONE_BY_ONE,
        *,
        cost: CostModel = UNKNOWN,
        depth: int = 2,
        max_waiting: int = 16,
        planner: Planner = policy.plan,
    ) -> None:
        """`depth`: batches that the engine takes at once, the running ones included."""
        self.capacity = capacity
        """The device, with what it has to do."""
        self.cost = cost
        """As fitted so far."""
        self.roster = Roster(max_waiting)
        self._engine = engine
        self._clock = clock
        self._metrics = metrics
        self._depth = depth
        self._planner = planner
        self._flights: dict[int, Flight] = {}
        self._running: list[Batch] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._tags = itertools.count(1)
        self._news = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._lead = LEAD_S[0]
        self._governed = NEVER
        """When it was last looked at who runs how (s)."""

    def begin(self, capacity: Capacity, cost: CostModel, depth: int) -> None:
        """What the engine turned out to be, once it is ready."""
        self.capacity, self.cost, self._depth = capacity, cost, depth
        self._govern()

    def enter(self, stream: Stream, *, may_wait: bool = True) -> None:
        """From now on the stream's frames are run, or it waits for that.

        Raises BusyError where there is no room, and it may not wait or too many wait already.
        """
        self.roster.enter(self._clock.now(), stream, self.cost, self.capacity, may_wait=may_wait)
        self.wake()

    def remove(self, stream: Stream) -> None:
        """The stream is over."""
        self.forget(stream, "closed")
        self.roster.leave(self._clock.now(), stream)
        self.changed()

    def check(self, stream: Stream, demand: Demand) -> None:
        """Raises BusyError where the stream cannot have `demand` instead of what it has."""
        self.roster.check(stream, demand, self.cost, self.capacity)

    def room(self, demand: Demand) -> int:
        """How many more sessions that ask for `demand` there is room for now."""
        return self.roster.room(demand, self.cost, self.capacity)

    def promised(self) -> float:
        """Share of the device's time that promises take."""
        return self.roster.promised(self.cost, self.capacity)

    def changed(self) -> None:
        """A stream asks for something else now, or no more."""
        self._governed = NEVER
        self.wake()

    def wake(self) -> None:
        """Something was queued, or may run now."""
        self._news.set()

    def forget(self, stream: Stream, reason: str) -> None:
        """The stream's state in the engine is closed; what of it is in flight is lost, for `reason`."""
        self._engine.forget(stream.id)
        self._lose((tag for tag, flight in self._flights.items() if flight.stream is stream), reason)

    def restarted(self, reason: str) -> None:
        """The engine's worker was replaced."""
        logger.warning("the engine was restarted: %s", reason)
        self._metrics.restarted()
        self._lose(self._flights, "restart")
        for stream in self.roster.everyone:
            stream.restarted(reason)

    async def run(self) -> None:
        """Until cancelled, or until the engine has failed for good."""
        try:
            self.wake()
            while await self._news_and_engine():
                self._govern_when_due()
                while self._may_submit() and self._turn():
                    pass
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _news_and_engine(self) -> bool:
        try:
            await self._news.wait()
            await self._engine.ready()
        except EngineError as error:
            for stream in self.roster.everyone:
                stream.end(f"the engine failed: {error.message}")
            return False
        self._news.clear()
        return True

    def _turn(self) -> bool:
        """One plan, carried out; whether it ran anything."""
        began, now = time.perf_counter(), self._clock.now()
        plan = self._planner(now, self._gather(), self.cost, self.capacity)
        self._drop(plan)
        batch = self._submit(plan, now)
        if plan.wake is not None:
            self._wake_at(now, plan.wake)
        self._metrics.planned(time.perf_counter() - began)
        if batch is None:
            return False
        task = asyncio.create_task(self._carry(batch), name="batch")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _may_submit(self) -> bool:
        """Whether the engine can take another batch; where it can soon, the loop wakes then.

        What is decided later is decided better: so a batch is not submitted before the engine is nearly free for it.
        """
        if not self._running:
            return True
        if len(self._running) >= self._depth or self._engine.state != "ready":
            return False
        free, now = self.capacity.opens, self._clock.now()
        if now >= free - self._lead:
            return True
        self._wake_at(now, free - self._lead)
        return False

    def _wake_at(self, now: float, when: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, when - now)
        if self._alarm is not None:
            if loop.time() < self._alarm.when() <= at:
                return  # everything is looked at anew then
            self._alarm.cancel()
        self._alarm = loop.call_at(at, self.wake)

    def _gather(self) -> list[SessionView]:
        views = [view for stream in self.roster if (view := stream.view()) is not None]
        if self.capacity.flows:
            return self._gather_for_flow(views)
        under_way = {chunk.session for batch in self._running for chunk in batch.plan.chunks}
        return [replace(view, busy=True) if view.session in under_way else view for view in views]

    def _gather_for_flow(self, views: Iterable[SessionView]) -> list[SessionView]:
        """What is in a flow comes out by itself: nothing is held. What was lost in it keeps nobody from going on."""
        under_way, most = Counter(flight.stream.id for flight in self._flights.values()), self.capacity.flight
        return [replace(view, busy=under_way[view.session] >= most, held_due=None) for view in views]

    def _drop(self, plan: Plan) -> None:
        by_session: dict[tuple[str, str], list[int]] = {}
        for drop in plan.drops:
            by_session.setdefault((drop.session, drop.reason), []).append(drop.frame)
        for (session, reason), frames in by_session.items():
            self._member(session).drop(frames, reason)

    def _member(self, session: str) -> Stream:
        stream = self.roster.get(session)
        assert stream is not None, "plans are of members, and carried out at once"
        return stream

    def _submit(self, plan: Plan, now: float) -> Batch | None:
        if not plan.chunks:
            return None
        work = {}
        for chunk, tag in zip(plan.chunks, self._tags, strict=False):
            stream = self._member(chunk.session)
            submission = stream.submit(chunk.frames, chunk.mode)
            if submission.frames:
                self._flights[tag] = Flight(stream, submission)
            pixels, params, first = submission.pixels, submission.params, submission.first
            work[tag] = ChunkWork(chunk.session, params, first, pixels, chunk.mode, tag)
        batch = Batch(plan, work, now, plan.ends, beside=len(self._running))
        self._running.append(batch)
        self.capacity = self.capacity.given(plan.ends)
        return batch

    async def _carry(self, batch: Batch) -> None:
        try:
            done = await self._run(batch)
        except Exception as error:
            logger.exception("a batch failed in a way that nobody expected")
            self._fail(batch.work, "error", f"internal error: {type(error).__name__}", state_lost=True)
            done = None
        finally:
            self._ended(batch)
        if done is not None:
            self._deliver(done, batch)
        self.wake()

    def _ended(self, batch: Batch) -> None:
        """The engine is rid of it: what it still has begins, or ends, as much earlier or later as this one did. Batches
        in a flow have each their own time.
        """
        self._running.remove(batch)
        if self.capacity.flows:
            self.capacity = replace(self.capacity, under_way=tuple(other.ends[2] for other in self._running))
            return
        off = self._clock.now() - batch.ends[2]
        for other in self._running:
            before, within, after = other.ends
            other.ends = before + off, within + off, after + off
        self.capacity = replace(self.capacity, free=self._running[-1].ends if self._running else IDLE)

    async def _run(self, batch: Batch) -> BatchDone | None:
        """What the engine gave back; chunks it could not run are told so here."""
        try:
            done = await self._engine.run(list(batch.work.values()))
        except WorkerDiedError as error:
            self._fail(batch.work, "restart", error.message, state_lost=True)
            self._lose(self._flights, "restart")
            return None
        except EngineError as error:
            restarting = self._engine.state != "ready"
            if restarting:
                self._lose(batch.work, "restart")
            else:
                self._fail(batch.work, "error", error.message, state_lost=True)
            return None
        if batch.plan.shape is not None and done.times is not None:
            self.cost = self.cost.observed(batch.plan.shape, done.times)
        return done

    def _deliver(self, done: BatchDone, batch: Batch) -> None:
        seconds = self._clock.now() - batch.began
        self._metrics.ran_batch(seconds, len(batch.work), done.times.stages if done.times else {})
        if done.times is not None and self.capacity.flows:
            self.capacity = self.capacity.crowded(seconds, sum(done.times.stages.values()), batch.beside)
        alone = not batch.beside and not (self.capacity.flows and self._running)
        if done.times is not None and alone:
            way = seconds - sum(done.times.stages.values())
            self._lead += LEAD_WEIGHT * (min(max(way, LEAD_S[0]), LEAD_S[1]) - self._lead)
        modes = {chunk.session: chunk.mode for chunk in batch.plan.chunks}
        for answer in done.chunks:
            flight = self._flights.pop(answer.tag, None)
            if flight is None:
                continue  # forgotten while it ran
            ran = Ran(modes[answer.session], len(batch.work), seconds, dict(answer.info), done.times)
            self._hand(answer, flight, ran)

    def _hand(self, answer: ChunkDone, flight: Flight, ran: Ran) -> None:
        if answer.pixels is not None:
            flight.stream.deliver(flight.work, answer.pixels, ran)
            return
        code, message = answer.error or ("engine_failed", "no pixels")
        if code == STATE_LOST:  # by another's fault, or one that is answered by itself
            flight.stream.lose(flight.work, "restart", state_lost=answer.state_lost)
            return
        logger.warning("session %s: chunk failed (%s): %s", answer.session[:6], code, message)
        flight.stream.fail(flight.work, "error", message, answer.state_lost)

    def _govern_when_due(self) -> None:
        now = self._clock.now()
        if now >= self._governed + GOVERN_S:
            self._govern()
        self._wake_at(now, self._governed + GOVERN_S)

    def _govern(self) -> None:
        self._governed = self._clock.now()
        self.roster.govern(self._governed, self.cost, self.capacity)
        governor = self.roster.governor
        self._metrics.governed(
            governor.levels.values(),
            queued=self.roster.waiting,
            promised=self.promised(),
            pressure=governor.pressure,
            error=self.cost.error,
        )

    def _lose(self, tags: Iterable[int], reason: str) -> None:
        for flight in self._pop(tags):
            flight.stream.lose(flight.work, reason)

    def _fail(self, tags: Mapping[int, ChunkWork], reason: str, message: str, state_lost: bool) -> None:
        for flight in self._pop(tags):
            flight.stream.fail(flight.work, reason, message, state_lost)

    def _pop(self, tags: Iterable[int]) -> list[Flight]:
        return [self._flights.pop(tag) for tag in list(tags) if tag in self._flights]
