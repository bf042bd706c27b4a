"""The same loop, sessions, cameras and screens with a real engine, in real time: what a simulation has to tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from streamgen.core import Pipeline
from streamgen.costfile import begun
from streamgen.engine import BatchDone, ChunkWork, Engine, StageTimes
from streamgen.scheduler.cost import STAGES, UNKNOWN, CostModel, Shape
from streamgen.scheduler.loop import Loop
from streamgen.simulation.device import Device, Factors, Replayed
from streamgen.simulation.outcome import Outcome
from streamgen.simulation.run import MAX_WAITING, Notes, Run, staged
from streamgen.simulation.virtual import LoopClock


class Measured(NamedTuple):
    """A batch of a real engine, on the loop's clock (s)."""

    submitted: float
    done: float
    shape: Shape
    times: StageTimes


class Recorder:
    """A Runner that notes what another one's batches took."""

    def __init__(self, engine: Engine) -> None:
        self.batches: list[Measured] = []
        self._engine = engine

    @property
    def state(self) -> str:
        return self._engine.state

    async def ready(self) -> None:
        await self._engine.ready()

    async def run(self, chunks: Sequence[ChunkWork]) -> BatchDone:
        clock = asyncio.get_running_loop().time
        submitted = clock()
        result = await self._engine.run(chunks)
        if result.times is not None:
            params, frames = chunks[0].params, max(len(chunk.pixels) for chunk in chunks)
            shape = Shape(max(1, frames), params.width, params.height, params.vae)
            self.batches.append(Measured(submitted, clock(), shape, result.times))
        return result

    def forget(self, session: str) -> None:
        self._engine.forget(session)


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured."""

    outcome: Outcome
    cost: CostModel
    """As the service had fitted it by the end."""
    batches: Sequence[Measured]
    """In their order."""

    def device(self, like: Device) -> Device:
        """A simulated device with these costs, and their noise as it was."""
        return replace(like, costs=self.cost, replayed=tuple(self._replayed()))

    def _replayed(self) -> Iterator[Replayed]:
        free = 0.0
        for batch in self.batches:
            times = batch.times
            stages = times.encode + times.denoise + times.decode
            yield Replayed(self._factors(batch), batch.done - max(batch.submitted, free) - stages)
            free = batch.done

    def _factors(self, batch: Measured) -> Factors:
        times = batch.times
        work = {
            "transfer": (1, times.chunks),
            "encode": (1, times.chunks),
            "denoise": (times.calls, times.rows),
            "decode": (1, times.decoded),
        }
        by_line = [self.cost.line(stage, batch.shape).seconds(*work[stage]) for stage in STAGES]
        transfer, encode, denoise, decode = (
            took / expected if expected > 0 and took > 0 else 1.0
            for took, expected in zip(times.stages.values(), by_line, strict=True)
        )
        return transfer, encode, denoise, decode


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
        recorder = Recorder(self.engine)
        loop = Loop(
            recorder,
            clock,
            notes,
            self._device.capacity,
            cost=run.cost or self.known,
            depth=self._device.depth,
            max_waiting=MAX_WAITING,
            planner=run.contender.planner,
        )
        self.engine.on_restart = loop.restarted
        return Trial(await staged(run, [loop], clock, notes), loop.cost, recorder.batches)
