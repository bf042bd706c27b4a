"""An engine, a clock and frames for tests of the service: in memory, without processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction

import numpy as np

from pipelines.fake import FakePipeline
from streamgen.core import Frame, Params, PipelineSpec
from streamgen.engine import BatchDone, ChunkWork, StageTimes
from streamgen.engine.streams import Streams
from streamgen.errors import BusyError, EngineError, WorkerDiedError
from streamgen.framing import SIZES
from streamgen.metrics import Metrics
from streamgen.scheduler.demand import Demand
from streamgen.scheduler.stream import Stream
from streamgen.session import Session
from streamgen.wire import ServerMessage

TIME_BASE = Fraction(1, 90000)
SMALL = Params(width=64, height=64)


class ManualClock:
    """Stands still until it is told the time."""

    def __init__(self, now: float = 100.0) -> None:
        self.time = now

    def now(self) -> float:
        return self.time


class InlineEngine:
    """Runs FakePipeline in this process. `dies` makes the next batch lose its worker."""

    def __init__(self, pipeline: FakePipeline | None = None) -> None:
        self.pipeline = pipeline or FakePipeline()
        self.state = "ready"
        self.dies = False
        self.failure = ""
        self.times: StageTimes | None = None
        """What batches are said to have taken."""
        self.batches: list[list[ChunkWork]] = []
        self.forgotten: list[str] = []
        self.on_restart: Callable[[str], None] = lambda _: None
        self.gate = asyncio.Event()
        """Batches wait for it."""
        self.gate.set()
        self._streams = Streams(self.pipeline)

    @property
    def spec(self) -> PipelineSpec:
        return self.pipeline.spec

    async def ready(self) -> None:
        if self.failure:
            raise EngineError(self.failure)

    async def run(self, chunks: Sequence[ChunkWork]) -> BatchDone:
        self.batches.append(list(chunks))
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.dies:
            self.dies = False
            self._streams = Streams(self.pipeline)
            asyncio.get_running_loop().call_soon(self.on_restart, "killed")
            raise WorkerDiedError("the worker died")
        return BatchDone(self._streams.run(chunks).chunks, self.times)

    def forget(self, session: str) -> None:
        self.forgotten.append(session)
        self._streams.close(session)


class IdleScheduler:
    """Notes what a session asks of the scheduler, and runs nothing."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.forgotten: list[str] = []
        self.woken = 0
        self.changes = 0
        self.most_steps = 4

    def enter(self, stream: Stream, *, may_wait: bool = True) -> None:
        self.streams.append(stream)
        stream.admitted()

    def check(self, stream: Stream, demand: Demand) -> None:
        if demand.rungs[0].steps > self.most_steps:
            raise BusyError("no room", 1)

    def changed(self) -> None:
        self.changes += 1

    def remove(self, stream: Stream) -> None:
        if stream in self.streams:
            self.streams.remove(stream)

    def wake(self) -> None:
        self.woken += 1

    def forget(self, stream: Stream, reason: str) -> None:
        self.forgotten.append(reason)


def make_session(
    scheduler: IdleScheduler | None = None,
    clock: ManualClock | None = None,
    params: Params = SMALL,
    messages: list[ServerMessage] | None = None,
    session_id: str = "s",
    asked: Collection[str] = SIZES,
) -> Session:
    """A session that is admitted, and not connected yet."""
    told: list[ServerMessage] = [] if messages is None else messages
    scheduler = scheduler or IdleScheduler()
    session = Session(
        session_id,
        params,
        FakePipeline().spec,
        scheduler=scheduler,
        clock=clock or ManualClock(),
        metrics=Metrics(),
        notify=told.append,
        asked=asked,
    )
    scheduler.enter(session)
    return session


def feed(session: Session, clock: ManualClock, count: int = 1, width: int = 64, height: int = 64) -> list[Frame]:
    """Frames come in at the clock's time, 1/16 s apart on the media's."""
    frames = []
    for _ in range(count):
        frame_id = session.came_in()
        pixels = np.full((height, width, 3), frame_id % 256, np.uint8)
        deadline = clock.now() + session.params.slo_ms / 1000
        frame = Frame(frame_id, frame_id * 5625, TIME_BASE, clock.now(), deadline, pixels)
        session.put(frame)
        frames.append(frame)
    return frames


def settled(session: Session) -> bool:
    """Whether every frame that came in went out or was dropped."""
    statistics = session.statistics
    return statistics.frames_in == statistics.frames_out + sum(statistics.drops.values())
