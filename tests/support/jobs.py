"""Jobs with their scheduler and an engine in this process."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.fake import FAKE_SPEC, FakePipeline, Fault
from streamgen.config import Config
from streamgen.core import Params
from streamgen.engine import BatchDone, ChunkWork
from streamgen.jobs import Jobs
from streamgen.jobs.job import Job
from streamgen.metrics import Metrics
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import UNKNOWN, CostModel
from streamgen.scheduler.loop import Loop
from streamgen.session import Session
from tests.support.service import SMALL, InlineEngine, ManualClock

FAULTS = {"bad": Fault("encode")}
SPEC = replace(FAKE_SPEC, first_chunk_frames=1)
ASKED = {"prompt": "ink", "width": 128, "height": 64}


class TickingEngine(InlineEngine):
    """Every batch takes a tenth of a second on the clock, and no time; `after` is waited for at its end."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(FakePipeline(SPEC, faults=FAULTS))
        self.clock = clock
        self.after: Callable[[], Awaitable[None]] | None = None
        self.one_by_one = False
        """Whether the gate closes behind every batch."""

    async def run(self, chunks: Sequence[ChunkWork]) -> BatchDone:
        done = await super().run(chunks)
        if self.one_by_one:
            self.gate.clear()
        self.clock.time += 0.1
        if self.after is not None:
            await self.after()
        return done


class Workshop:
    """One batch at a time, of one chunk unless `max_batch` says more."""

    def __init__(
        self, max_batch: int = 1, sessions: int | None = None, cost: CostModel = UNKNOWN, **settings: Any
    ) -> None:
        self.clock, self.metrics = ManualClock(), Metrics()
        self.engine = TickingEngine(self.clock)
        capacity = Capacity(max_batch=max_batch, sessions=sessions)
        self.loop = Loop(self.engine, self.clock, self.metrics, capacity, cost=cost, depth=1)
        self.engine.on_restart = self.loop.restarted
        self.folder = Path(tempfile.mkdtemp())
        self.jobs = Jobs(Config(**settings), self.engine, self.loop, self.clock, self.metrics, self.folder)
        self.task = asyncio.create_task(self.loop.run())

    @property
    def left(self) -> list[Path]:
        """Files and folders that there are now."""
        return sorted(self.folder.rglob("*"))

    def submit(self, file: Path | bytes, kind: str = "mkv", **asked: Any) -> Coroutine[Any, Any, Job]:
        content = file if isinstance(file, bytes) else file.read_bytes()
        return self.jobs.submit(ASKED | asked, kind, pieces(content))

    def session(self, name: str = "live", params: Params = SMALL) -> Session:
        session = Session(
            name,
            params,
            self.engine.spec,
            scheduler=self.loop,
            clock=self.clock,
            metrics=self.metrics,
            notify=lambda message: None,
        )
        self.loop.enter(session)
        session.connected()
        return session

    def shown(self, state: str) -> float:
        """How many jobs are in this state, by the metrics."""
        lines = self.metrics.exposition().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f'streamgen_jobs{{state="{state}"}}'))

    async def stop(self) -> None:
        await self.jobs.stop()
        self.folder.rmdir()  # which has to be empty
        self.task.cancel()
        await asyncio.wait([self.task])


async def pieces(content: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
