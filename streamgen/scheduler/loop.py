"""The loop that carries the policy's decisions out: gather, plan, run, deliver."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from streamgen.core import Clock
from streamgen.engine import BatchDone, ChunkDone, ChunkWork
from streamgen.errors import EngineError, WorkerDiedError
from streamgen.metrics import Metrics
from streamgen.scheduler import policy
from streamgen.scheduler.cost import Shape
from streamgen.scheduler.policy import Limits, Plan
from streamgen.scheduler.stream import Ran, Stream, Submission

logger = logging.getLogger(__name__)


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
        """Raises WorkerDiedError, EngineError."""
        ...

    def forget(self, session: str) -> None:
        """Closes the session's stream state."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A chunk between submission and its result."""

    stream: Stream
    work: Submission


class Loop:
    """Runs the chunks of all streams, one batch at a time.

    Every submitted chunk is in `_flights` until its stream has been told of its result or its loss, exactly once.
    """

    def __init__(self, engine: Runner, clock: Clock, metrics: Metrics, limits: Limits) -> None:
        self._engine = engine
        self._clock = clock
        self._metrics = metrics
        self._limits = limits
        self._streams: dict[str, Stream] = {}
        self._flights: dict[int, Flight] = {}
        self._tags = itertools.count(1)
        self._news = asyncio.Event()

    @property
    def limits(self) -> Limits:
        """What plans may use, with the cost model as fitted so far."""
        return self._limits

    def observe(self, shape: Shape, seconds: float) -> None:
        """A batch of `shape` took so long."""
        self._limits = replace(self._limits, cost=self._limits.cost.observed(shape, seconds))

    def add(self, stream: Stream) -> None:
        """From now on the stream's frames are run."""
        assert stream.id not in self._streams
        self._streams[stream.id] = stream
        self.wake()

    def remove(self, stream: Stream) -> None:
        """The stream is over."""
        self.forget(stream, "closed")
        self._streams.pop(stream.id, None)

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
        for stream in list(self._streams.values()):
            stream.restarted(reason)

    async def run(self) -> None:
        """Until cancelled, or until the engine has failed for good."""
        while await self._news_and_engine():
            plan = policy.plan(self._clock.now(), self._gather(), self._limits)
            self._drop(plan)
            batch = self._submit(plan)
            if batch:
                self._deliver(await self._run(batch, plan), plan)
                self.wake()  # there may be more that is ready by now

    async def _news_and_engine(self) -> bool:
        try:
            await self._news.wait()
            await self._engine.ready()
        except EngineError as error:
            for stream in list(self._streams.values()):
                stream.end(f"the engine failed: {error.message}")
            return False
        self._news.clear()
        return True

    def _gather(self) -> list[policy.SessionView]:
        views = (stream.view() for stream in self._streams.values())
        return [view for view in views if view is not None]

    def _drop(self, plan: Plan) -> None:
        for drop in plan.drops:
            self._streams[drop.session].drop([drop.frame], drop.reason)

    def _submit(self, plan: Plan) -> dict[int, ChunkWork]:
        """The plan's chunks as engine work, by tag."""
        batch = {}
        for chunk, tag in zip(plan.chunks, self._tags, strict=False):
            stream = self._streams[chunk.session]
            work = stream.submit(chunk.frames)
            self._flights[tag] = Flight(stream, work)
            pixels = [frame.pixels for frame in work.frames]
            batch[tag] = ChunkWork(chunk.session, work.params, work.first, pixels, plan.mode, tag)
        return batch

    async def _run(self, batch: Mapping[int, ChunkWork], plan: Plan) -> tuple[list[ChunkDone], float]:
        """What the engine gave back, and the time it took (s); chunks it could not run are told so here."""
        began = self._clock.now()
        try:
            done = (await self._engine.run(list(batch.values()))).chunks
        except WorkerDiedError as error:
            self._fail(batch, "restart", error.message, state_lost=True)
            self._lose(self._flights, "restart")
            return [], 0.0
        except EngineError as error:
            restarting = self._engine.state != "ready"
            if restarting:
                self._lose(batch, "restart")
            else:
                self._fail(batch, "error", error.message, state_lost=True)
            return [], 0.0
        seconds = self._clock.now() - began
        self._metrics.ran_batch(seconds)
        if plan.shape and plan.mode == "sequential" and not any(answer.error for answer in done):
            self.observe(plan.shape, seconds)
        return done, seconds

    def _deliver(self, result: tuple[list[ChunkDone], float], plan: Plan) -> None:
        done, seconds = result
        for answer in done:
            flight = self._flights.pop(answer.tag, None)
            if flight is None:
                continue  # forgotten while it ran
            if answer.pixels is not None:
                ran = Ran(plan.mode, len(plan.chunks), seconds, dict(answer.info))
                flight.stream.deliver(flight.work, answer.pixels, ran)
            else:
                code, message = answer.error or ("engine_failed", "no pixels")
                logger.warning("session %s: chunk failed (%s): %s", answer.session[:6], code, message)
                flight.stream.fail(flight.work, "error", message, answer.state_lost)

    def _lose(self, tags: Iterable[int], reason: str) -> None:
        for flight in self._pop(tags):
            flight.stream.lose(flight.work, reason)

    def _fail(self, tags: Iterable[int], reason: str, message: str, state_lost: bool) -> None:
        for flight in self._pop(tags):
            flight.stream.fail(flight.work, reason, message, state_lost)

    def _pop(self, tags: Iterable[int]) -> list[Flight]:
        return [self._flights.pop(tag) for tag in list(tags) if tag in self._flights]
