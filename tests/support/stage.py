"""A whole service in this process, but for its engine's worker, for tests with real WebRTC."""

from __future__ import annotations

import asyncio
from typing import Any

from pipelines.fake import FakePipeline, Fault
from streamgen.clock import MonotonicClock
from streamgen.config import Config
from streamgen.metrics import Metrics
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.loop import Loop
from streamgen.service import PresetInfo, Service
from tests.support.service import SMALL, InlineEngine
from tests.support.webrtc import Client

PARAMS: dict[str, object] = {"width": 64, "height": 64}


class Stage:
    """A service with an engine in this process, and real WebRTC."""

    def __init__(self, **settings: Any) -> None:
        config = Config(**{"max_queue": 0} | settings)
        self.clock, self.metrics = MonotonicClock(), Metrics()
        self.engine = InlineEngine(FakePipeline(faults={"bad": Fault("encode")}))
        self.loop = Loop(
            self.engine,
            self.clock,
            self.metrics,
            Capacity(max_batch=4, sessions=config.max_sessions),
            max_waiting=config.max_queue,
        )
        self.engine.on_restart = self.loop.restarted
        presets = [PresetInfo("tiny", "Tiny", "Small.", 16.0, SMALL, [{"name": "Ink", "prompt": "ink"}])]
        self.service = Service(config, self.engine, self.loop, presets, self.clock, self.metrics)
        self.task = asyncio.create_task(self.loop.run())

    async def open(self, peer: Client, **params: object) -> str:
        opened = await self.service.open(await peer.offer(), PARAMS | params, client="test")
        await peer.accept(opened.sdp)
        return opened.session.id

    def lose(self, session: str) -> None:
        """The session's connection is found to be dead, as where its client does not answer any more."""
        self.service._place(session).connection.end("the connection was lost", lost=True)

    async def stop(self) -> None:
        await self.service.stop("the service is stopping")
        self.task.cancel()
        await asyncio.wait([self.task])
