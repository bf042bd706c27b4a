"""Latent frames through the DiT, one step of few at a time, for rows of any streams in one pass.

A stream's latent frames take their steps in order; which steps of which frames share a pass is the caller's to choose:
all steps of a frame before the next frame (sequential), or frame i at step n beside frame i + 1 at step n - 1 (stream
batch). What comes out is the same, where every step has its own KV cache (`memory` own).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pipelines.causal_wan.cache import CacheStep, RollingKVCache
from pipelines.causal_wan.device import upload
from pipelines.causal_wan.dit import CausalWanModel, TextContext, TimeContexts, join_contexts
from pipelines.causal_wan.geometry import CacheGeometry, SamplerGeometry
from pipelines.causal_wan.sampler import Sampler, add_noise, clean_from, draw_noise

Draw = Callable[[tuple[int, ...], int, int, torch.device, torch.dtype, int], Tensor]
"""Standard normal noise of (shape, seed, step, device, dtype, chunk)."""


@dataclass(eq=False)
class LatentStream:
    """What the DiT keeps of one stream."""

    cache: RollingKVCache
    context: TextContext
    seed: int
    slots: list[int] = field(default_factory=list)
    """KV slots, of the steps in order or of all steps."""
    noises: dict[int, Tensor] = field(default_factory=dict)
    """Kept noise, by step."""
    chunks: int = 0
    """Begun so far."""
    closed: bool = False

    def reseed(self, seed: int) -> None:
        if seed != self.seed:
            self.seed = seed
            self.noises.clear()


@dataclass(frozen=True, eq=False)
class LatentRow:
    """A chunk's latent frames on their way through the steps."""

    stream: LatentStream
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
    ) -> None:
        self._dit, self._geometry = dit, cache
        self.sampler = Sampler(sampler)
        self._device, self._dtype, self._draw = device, dtype, draw
        self._times = TimeContexts(dit, device)
        self._caches: dict[tuple[int, int], RollingKVCache] = {}

    def open(self, grid: tuple[int, int], context: TextContext, seed: int) -> LatentStream:
        """A stream of latent frames of grid (rows, columns) tokens under a prompt (CausalWanModel.context)."""
        if grid not in self._caches:
            self._caches[grid] = RollingKVCache(self._dit.geometry, self._geometry, grid, self._device, self._dtype)
        return LatentStream(self._caches[grid], context, seed)

    def close(self, stream: LatentStream) -> None:
        if stream.closed:
            return
        stream.closed = True
        for slot in stream.slots:
            stream.cache.give_back(slot)
        stream.slots.clear()
        if not stream.cache.taken:
            self._caches.pop(stream.cache.grid, None)

    def weights_changed(self) -> None:
        """Forgets what the DiT made of noise levels."""
        self._times.forget()

    def start(self, stream: LatentStream, clean: Tensor, steps: int, noise: float) -> LatentRow:
        """The next latent frames (1, C, frames, h, w) of a stream, noised to `noise` (0..1) for the first step."""
        if stream.slots and self._geometry.start == "last":
            self._spread(stream, steps)
        row = LatentRow(stream, clean, clean, 0, steps, noise, stream.chunks)
        stream.chunks += 1
        return replace(row, latent=self._noised(row, clean))

    def step(self, rows: Sequence[LatentRow]) -> list[LatentRow]:
        """One step of each row, or, where the caches start alike (`start` last), all steps of a stream's first chunk.

        All rows are of one size, and of different streams or, where each step has its own cache, different steps.
        """
        result: list[LatentRow] = list(rows)
        leading = [i for i, row in enumerate(rows) if not row.stream.slots and self._geometry.start == "last"]
        others = [i for i in range(len(rows)) if i not in leading]
        if others:
            self._advance(result, others, leading=False)
        while left := [i for i in leading if not result[i].done]:
            self._advance(result, left, leading=True)
        for i in leading:
            self._spread(rows[i].stream, rows[i].steps)
        return result

    def _advance(self, rows: list[LatentRow], at: list[int], *, leading: bool) -> None:
        """Replaces the rows at indices `at` by what they are one step later."""
        slots = {i: self._slot(rows[i].stream, 0 if leading else rows[i].step) for i in at}
        at = sorted(at, key=lambda i: slots[i])  # neighbouring slots need no copy
        batch = [rows[i] for i in at]
        again = [row.step > 0 and (leading or self._geometry.memory != "own") for row in batch]
        cache = batch[0].stream.cache.begin([slots[i] for i in at], again, self._frames(batch[0]))
        for i, clean in zip(at, self._clean(batch, cache), strict=True):
            row = replace(rows[i], step=rows[i].step + 1)
            rows[i] = replace(row, latent=clean if row.done else self._noised(row, clean))

    def _clean(self, rows: list[LatentRow], cache: CacheStep) -> Sequence[Tensor]:
        """The clean latents that one forward pass predicts."""
        geometry = self._dit.geometry
        levels = [self.sampler.level(row.step, row.steps, row.noise) for row in rows]
        latent = torch.cat([row.latent for row in rows])
        condition = torch.cat([row.condition for row in rows]) if geometry.cond_channels else None
        times = self._times([level.time for level in levels])
        context = join_contexts([row.stream.context for row in rows])
        out = self._dit(latent, condition, times, context, cache)
        sigma = self._levels([level.sigma for level in levels])
        return clean_from(out, latent, condition, sigma, geometry.prediction).split(1)

    def _frames(self, row: LatentRow) -> int:
        return row.latent.shape[2] // self._dit.geometry.patch[0]

    def _noised(self, row: LatentRow, clean: Tensor) -> Tensor:
        """`clean`, noised for the row's next step."""
        level = self.sampler.level(row.step, row.steps, row.noise).noise
        stream, kept = row.stream, self.sampler.geometry.noise == "kept"
        noise = stream.noises.get(row.step)
        if noise is None or not kept:
            chunk = 0 if kept else row.chunk
            noise = self._draw(tuple(clean.shape), stream.seed, row.step, self._device, self._dtype, chunk)
        if kept:
            stream.noises[row.step] = noise
        return add_noise(clean, noise, self._levels([level]))

    def _levels(self, levels: list[float]) -> Tensor:
        return upload(torch.tensor(levels), self._device)

    def _slot(self, stream: LatentStream, step: int) -> int:
        """The slot of a step."""
        if stream.closed:
            raise ValueError("the stream is closed")
        at = step if self._geometry.memory == "own" else 0
        while len(stream.slots) <= at:
            stream.slots.append(stream.cache.take())
        return stream.slots[at]

    def _spread(self, stream: LatentStream, steps: int) -> None:
        """Slots for so many steps, those that are new like the last one."""
        while len(stream.slots) < self._geometry.slots(steps):
            slot = stream.cache.take()
            stream.cache.copy(stream.slots[-1], slot)
            stream.slots.append(slot)
