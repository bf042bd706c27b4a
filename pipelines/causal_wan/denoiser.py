"""Latent frames through the DiT, one step of few at a time, for rows of any streams in one pass.

A stream's latent frames take their steps in order; which steps of which frames share a pass is the caller's to choose:
all steps of a frame before the next frame (sequential), or frame i at step n beside frame i + 1 at step n - 1 (stream
batch). What comes out is the same, where every step has its own KV cache (`memory` own).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pipelines.causal_wan.cache import RollingKVCache
from pipelines.causal_wan.device import upload
from pipelines.causal_wan.dit import CausalWanModel, TimeContext, TimeContexts, join_contexts
from pipelines.causal_wan.geometry import CacheGeometry, SamplerGeometry
from pipelines.causal_wan.sampler import Level, Sampler, add_noise, clean_from, draw_noise

MakeCache = Callable[[tuple[int, int]], RollingKVCache]
"""A cache for latent frames of a grid of tokens."""

Draw = Callable[[tuple[int, ...], int, int, torch.device, torch.dtype, int], Tensor]
"""Standard normal noise of (shape, seed, step, device, dtype, chunk)."""


@dataclass(eq=False)
class LatentStream:
    """What the DiT keeps of one stream."""

    cache: RollingKVCache
    context: Any
    """What the DiT is told of the prompt: a TextContext, or what a ring knows it by."""
    seed: int
    slots: list[int] = field(default_factory=list)
    """KV slots, of the steps in order or of all steps."""
    noises: dict[int, Tensor] = field(default_factory=dict)
    """Kept noise, by step."""
    chunks: int = 0
    """Begun so far."""
    leader: int | None = None
    """The chunk that led, where the caches start alike."""
    closed: bool = False

    def reseed(self, seed: int) -> None:
        if seed != self.seed:
            self.seed = seed
            self.noises.clear()


@dataclass(frozen=True, eq=False)
class LatentRow:
    """A chunk's latent frames on their way through the steps."""

    stream: LatentStream
    context: Any
    """What the DiT is told of the chunk's prompt, in all its steps."""
    seed: int
    """Of its noise, in all its steps."""
    latent: Tensor
    """(1, C, frames, h, w): noised before the last step, clean after it."""
    condition: Tensor
    """The clean source latent."""
    step: int
    """Steps done."""
    steps: int
    noise: float
    """Level to which the source was noised."""
    chunk: int
    """The chunk's number in its stream."""

    @property
    def done(self) -> bool:
        return self.step >= self.steps


@dataclass(frozen=True, eq=False)
class Pass:
    """Rows that go through the DiT together."""

    rows: list[LatentRow]
    """In the order of their slots: neighbours need no copy to be attended to."""
    order: list[int]
    """Where each of them was in what `begin` was given."""
    slots: list[int]
    again: list[bool]
    """Of which rows the cache has the frames already, of an earlier step."""
    frames: int
    """Latent frames of a row, counted in patches."""
    levels: list[Level]


class Denoiser:
    """A DiT with its sampler and its caches, one for each picture size in use."""

    def __init__(
        self,
        dit: CausalWanModel,
        cache: CacheGeometry,
        sampler: SamplerGeometry,
        device: torch.device,
        dtype: torch.dtype,
        draw: Draw = draw_noise,
        make_cache: MakeCache | None = None,
    ) -> None:
        """make_cache: RollingKVCache itself if None."""
        self.dit, self.geometry = dit, cache
        self._make_cache = make_cache or self._whole_cache
        self.sampler = Sampler(sampler)
        self._device, self._dtype, self._draw = device, dtype, draw
        self._times = TimeContexts(dit, device)
        self._caches: dict[tuple[int, int], RollingKVCache] = {}
        self._open = Counter[tuple[int, int]]()
        """Streams of each cache, whether they have slots yet or not."""

    def open(self, grid: tuple[int, int], context: Any, seed: int) -> LatentStream:
        """A stream of latent frames of grid (rows, columns) tokens under a prompt (CausalWanModel.context)."""
        if grid not in self._caches:
            self._caches[grid] = self._make_cache(grid)
        self._open[grid] += 1
        return LatentStream(self._caches[grid], context, seed)

    def close(self, stream: LatentStream) -> None:
        if stream.closed:
            return
        stream.closed = True
        for slot in stream.slots:
            stream.cache.give_back(slot)
        stream.slots.clear()
        grid = stream.cache.grid
        self._open[grid] -= 1
        if not self._open[grid]:
            del self._open[grid]
            self._drop(self._caches.pop(grid))

    def weights_changed(self) -> None:
        """Forgets what the DiT made of noise levels."""
        self._times.forget()

    def start(self, stream: LatentStream, clean: Tensor, steps: int, noise: float) -> LatentRow:
        """The next latent frames (1, C, frames, h, w) of a stream, noised to `noise` (0..1) for the first step."""
        row = LatentRow(stream, stream.context, stream.seed, clean, clean, 0, steps, noise, stream.chunks)
        stream.chunks += 1
        return replace(row, latent=self._noised(row, clean))

    def step(self, rows: Sequence[LatentRow]) -> list[LatentRow]:
        """One step of each row, or, where the caches start alike (`start` last), all steps of a stream's first chunk.

        All rows are of one size, and of different streams or, where each step has its own cache, different steps.
        """
        result: list[LatentRow] = list(rows)
        leading = [i for i, row in enumerate(rows) if self.leads(row)]
        others = [i for i in range(len(rows)) if i not in leading]
        if others:
            self._advance(result, others)
        while left := [i for i in leading if not result[i].done]:
            self._advance(result, left)
        return result

    def leads(self, row: LatentRow) -> bool:
        """Whether all steps of the row go through one slot, before any other chunk of its stream."""
        stream = row.stream
        return self.geometry.start == "last" and (not stream.slots or stream.leader == row.chunk)

    def begin(self, rows: Sequence[LatentRow]) -> Pass:
        """Gives rows, all of which lead or none, their places for their next step."""
        for row in rows:
            if self.leads(row):
                row.stream.leader = row.chunk
            elif row.step == 0 and self.geometry.start == "last":
                self._spread(row.stream, row.steps)
        slots = [self._slot(row.stream, 0 if self.leads(row) else row.step) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: slots[i])
        batch = [rows[i] for i in order]
        again = [row.step > 0 and (self.leads(row) or self.geometry.memory != "own") for row in batch]
        levels = [self.sampler.level(row.step, row.steps, row.noise) for row in batch]
        frames = batch[0].latent.shape[2] // self.dit.geometry.patch[0]
        return Pass(batch, order, [slots[i] for i in order], again, frames, levels)

    def inputs(self, passing: Pass) -> tuple[Tensor, Tensor | None, TimeContext]:
        """Latents, conditions and noise levels, as the DiT takes them."""
        rows = passing.rows
        condition = torch.cat([row.condition for row in rows]) if self.dit.geometry.cond_channels else None
        return torch.cat([row.latent for row in rows]), condition, self._times([lv.time for lv in passing.levels])

    def placed(self, passing: Pass) -> None:
        """The caches have, or will have, the pass's frames before anything that comes after it."""
        for row in passing.rows:
            if self.leads(row) and row.step + 1 == row.steps:
                self._spread(row.stream, row.steps)

    def finish(self, passing: Pass, prediction: Tensor) -> list[LatentRow]:
        """The pass's rows, in their order, one step further by the DiT's prediction (rows, C, frames, h, w)."""
        kind, sigma = self.dit.geometry.prediction, self._levels([level.sigma for level in passing.levels])
        latent = torch.cat([row.latent for row in passing.rows])
        condition = torch.cat([row.condition for row in passing.rows]) if kind == "residual" else None
        results = []
        for row, clean in zip(
            passing.rows, clean_from(prediction, latent, condition, sigma, kind).split(1), strict=True
        ):
            further = replace(row, step=row.step + 1)
            results.append(replace(further, latent=clean if further.done else self._noised(further, clean)))
        return results

    def _drop(self, cache: RollingKVCache) -> None:
        """No stream has this cache any more."""

    def _advance(self, rows: list[LatentRow], at: list[int]) -> None:
        """Replaces the rows at indices `at` by what they are one step later."""
        passing = self.begin([rows[i] for i in at])
        cache = passing.rows[0].stream.cache.begin(passing.slots, passing.again, passing.frames)
        context = join_contexts([row.context for row in passing.rows])
        prediction = self.dit(*self.inputs(passing), context, cache)
        self.placed(passing)
        for place, row in zip(passing.order, self.finish(passing, prediction), strict=True):
            rows[at[place]] = row

    def _whole_cache(self, grid: tuple[int, int]) -> RollingKVCache:
        return RollingKVCache(self.dit.geometry, self.geometry, grid, self._device, self._dtype)

    def _noised(self, row: LatentRow, clean: Tensor) -> Tensor:
        """`clean`, noised for the row's next step."""
        level = self.sampler.level(row.step, row.steps, row.noise).noise
        same = self.sampler.geometry.noise == "kept"
        kept = row.stream.noises if same and row.seed == row.stream.seed else {}
        noise = kept.get(row.step)
        if noise is None:
            chunk = 0 if same else row.chunk
            noise = self._draw(tuple(clean.shape), row.seed, row.step, self._device, self._dtype, chunk)
            kept[row.step] = noise
        return add_noise(clean, noise, self._levels([level]))

    def _levels(self, levels: list[float]) -> Tensor:
        return upload(torch.tensor(levels), self._device)

    def _slot(self, stream: LatentStream, step: int) -> int:
        """The slot of a step."""
        if stream.closed:
            raise ValueError("the stream is closed")
        at = step if self.geometry.memory == "own" else 0
        while len(stream.slots) <= at:
            stream.slots.append(stream.cache.take())
        return stream.slots[at]

    def _spread(self, stream: LatentStream, steps: int) -> None:
        """Slots for so many steps, those that are new like the last one."""
        while len(stream.slots) < self.geometry.slots(steps):
            slot = stream.cache.take()
            stream.cache.copy(stream.slots[-1], slot)
            stream.slots.append(slot)
