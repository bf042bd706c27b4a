"""The same loop, sessions, cameras and screens with a real engine, in real time: what a simulation has to tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from streamgen.core import Pipeline
from streamgen.costfile import begun
from streamgen.engine import Engine, StageTimes
from streamgen.scheduler.cost import UNKNOWN, CostModel, Shape
from streamgen.scheduler.loop import Loop
from streamgen.simulation.device import Device
from streamgen.simulation.outcome import Outcome
from streamgen.simulation.run import MAX_WAITING, Notes, Run, staged
from streamgen.simulation.virtual import LoopClock

MEAN_OF_SPREAD = 0.8
"""Mean of |x - 1| where the logarithm of x has a small standard deviation, as a share of that."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured."""

    outcome: Outcome
    cost: CostModel
    """As the service had fitted it by the end."""


class Bench:
    """A real engine for trials. An async context."""

    def __init__(self, factory: Callable[[], Pipeline[Any]], device: Device) -> None:
        """Of `device` counts what the engine is told: batches and depth."""
        self.engine = Engine(factory, slots=device.max_batch, depth=device.depth)
        self._device = device

    async def __aenter__(self) -> Self:
        await self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.stop()

    @property
    def known(self) -> CostModel:
        """What warming up told."""
        measured: dict[Shape, list[StageTimes]] = {}
        for warm in self.engine.warmup:
            measured.setdefault(Shape(warm.frames, warm.width, warm.height), []).append(warm.times)
        return begun(UNKNOWN, measured)

    async def tried(self, run: Run) -> Trial:
        """The run in real time. Raises EngineError."""
        clock, notes = LoopClock(asyncio.get_running_loop()), Notes()
        loop = Loop(
            self.engine,
            clock,
            notes,
            self._device.capacity,
            cost=run.cost or self.known,
            depth=self._device.depth,
            max_waiting=MAX_WAITING,
            planner=run.contender.planner,
        )
        self.engine.on_restart = loop.restarted
        return Trial(await staged(run, [loop], clock, notes), loop.cost)


def fitted(device: Device, cost: CostModel) -> Device:
    """`device` with the costs, and their spread, that a service had fitted."""
    error = sum(line.error * line.seen for line in cost.lines.values()) / sum(line.seen for line in cost.lines.values())
    return Device(
        cost, spread=error / MEAN_OF_SPREAD, max_batch=device.max_batch, depth=device.depth, overlap=device.overlap
    )
