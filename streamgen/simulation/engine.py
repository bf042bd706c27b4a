"""An engine without a model: batches come back when the device would have been done with them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from pipelines.streaming import StreamBatch, finish
from streamgen.core import Clock, Pixels, Row
from streamgen.engine import BatchDone, ChunkDone, ChunkWork
from streamgen.engine.work import StageTimes
from streamgen.scheduler.cost import Shape
from streamgen.simulation.device import Device
from streamgen.simulation.ring import Ring


@dataclass(slots=True, eq=False)
class Stream:
    """A session's stream state: its name is all it has."""

    session: str


@dataclass(slots=True)
class Denoiser:
    """Counts the denoising of one batch."""

    calls: int = 0
    rows: int = 0

    def denoise(self, rows: Sequence[Row[Stream]]) -> list[Row[Stream]]:
        """Every row one step further."""
        self.calls += 1
        self.rows += len(rows)
        return [Row(r.state, r.latent, None, r.step + 1, r.steps, r.sigma, r.frames, r.leading) for r in rows]


@dataclass(slots=True)
class Workload:
    """What a batch makes the device do, and whose results come out of it."""

    shape: Shape
    chunks: int = 0
    calls: int = 0
    rows: int = 0
    done: list[Row[Stream]] = field(default_factory=list)


class SimulatedEngine:
    """Implements the scheduler's Runner on a Device, on the clock of the running event loop.

        batch -> copied -> encoder | denoiser | decoder -> copied back          | only where the stages overlap

    Copying goes on beside the work on other batches. The pictures that come back have the right shape and no content.
    Where chunks flow, batches go through a Ring instead.
    """

    def __init__(self, device: Device, clock: Clock, random: Random) -> None:
        self.busy_s = 0.0
        """Time that the busiest of encoder, denoiser and decoder has worked, or the busiest stage of a flow; where the
        three take turns, all of them (s)."""
        self._device = device
        self._clock = clock
        self._random = random
        self._free = (0.0, 0.0, 0.0)
        self._denoiser = Denoiser()
        self._batch = StreamBatch[Stream](self._denoiser)
        self._streams: dict[str, Stream] = {}
        self._numbers = itertools.count()
        self._worked = [0.0, 0.0, 0.0]
        self._ring = Ring(device.stages)

    @property
    def state(self) -> str:
        """It never fails."""
        return "ready"

    async def ready(self) -> None:
        """At once."""

    async def run(self, chunks: Sequence[ChunkWork]) -> BatchDone:
        """The batch's results, when it would be done."""
        work = self._gone_through(chunks)
        number = next(self._numbers)
        times = self._device.times(number, work.shape, work.chunks, work.calls, work.rows, len(work.done), self._random)
        if self._device.flight > 1:
            await self._flowed(chunks, times)
        else:
            beside_s = self._device.beside_s(number)
            end = self._booked(times) if beside_s is None else self._replayed(times, beside_s)
            await asyncio.sleep(end - self._clock.now())
        return BatchDone([self._answer(row) for row in work.done], times)

    def forget(self, session: str) -> None:
        """Closes the session's stream."""
        stream = self._streams.pop(session, None)
        if stream is not None:
            self._batch.discard(stream)
        self._ring.forget(session)

    def _gone_through(self, chunks: Sequence[ChunkWork]) -> Workload:
        params = chunks[0].params
        frames = max(len(chunk.pixels) for chunk in chunks)
        work = Workload(Shape(max(1, frames), params.width, params.height, params.vae))
        drained: list[Stream] = []
        direct: list[Row[Stream]] = []
        batched: list[Row[Stream]] = []
        for chunk in chunks:
            if chunk.first:
                self.forget(chunk.session)
            stream = self._streams.get(chunk.session)
            if stream is None:
                stream = self._streams[chunk.session] = Stream(chunk.session)
            if not chunk.pixels:
                drained.append(stream)
                continue
            work.chunks += 1
            row = Row(stream, (chunk.tag, params.width, params.height), None, 0, chunk.params.steps, 0.0, frames)
            (batched if chunk.mode == "stream_batch" else direct).append(row)
        self._denoiser.calls = self._denoiser.rows = 0
        earlier = self._batch.drain([*drained, *(row.state for row in direct)])
        work.done = earlier + finish(self._denoiser, direct) + self._batch.advance(batched)
        work.calls, work.rows = self._denoiser.calls, self._denoiser.rows
        return work

    async def _flowed(self, chunks: Sequence[ChunkWork], times: StageTimes) -> None:
        """Until the results are there."""
        assert not self._device.replayed, "what batches took one after the other says nothing of a flow"
        await asyncio.sleep(times.transfer / 2)
        await self._ring.go_through([chunk.session for chunk in chunks], times)
        self.busy_s = self._ring.busy_s
        await asyncio.sleep(times.transfer / 2)

    def _booked(self, times: StageTimes) -> float:
        """When the results are there: takes its place behind what the device has to do already."""
        stages = (times.encode, times.denoise, times.decode)
        before, within, after = self._free
        arrived = self._clock.now() + times.transfer / 2
        if self._device.overlap:
            encoded = max(arrived, before) + times.encode
            denoised = max(encoded, within) + times.denoise
            decoded = max(denoised, after) + times.decode
            self._free = (encoded, denoised, decoded)
        else:
            decoded = max(arrived, after) + sum(stages)
            self._free = (decoded, decoded, decoded)
        self._worked = [worked + seconds for worked, seconds in zip(self._worked, stages, strict=True)]
        self.busy_s = max(self._worked) if self._device.overlap else sum(self._worked)
        return decoded + times.transfer / 2

    def _replayed(self, times: StageTimes, beside_s: float) -> float:
        """The same, where it is known what one batch after the other took beside its stages."""
        took = max(0.0, times.encode + times.denoise + times.decode + beside_s)
        end = max(self._clock.now(), self._free[2]) + took
        self._free = (end, end, end)
        self.busy_s += took
        return end

    def _answer(self, row: Row[Stream]) -> ChunkDone:
        tag, width, height = row.latent
        return ChunkDone(session=row.state.session, tag=tag, pixels=blank(row.frames, height, width), info={})


_BLANK = np.zeros((1, 1, 1, 3), np.uint8)
_VIEWS: dict[tuple[int, int, int], Pixels] = {}


def blank(frames: int, height: int, width: int) -> Pixels:
    """Black pictures (frames, height, width, 3), all of them the same few bytes."""
    view = _VIEWS.get((frames, height, width))
    if view is None:
        view = _VIEWS[frames, height, width] = np.broadcast_to(_BLANK, (frames, height, width, 3))
    return view
