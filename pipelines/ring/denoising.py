"""The denoiser of a ring: it gives rows their places on all ranks, and makes latents of what comes back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pipelines.causal_wan.cache import RollingKVCache
from pipelines.causal_wan.denoiser import Denoiser, LatentStream, Pass
from pipelines.causal_wan.geometry import CacheGeometry, SamplerGeometry
from pipelines.ring.group import Group
from pipelines.ring.operations import Copy, Drop, Final, GiveBack, Grid, Rows, Take
from pipelines.ring.stage import Stage


class ToldCache(RollingKVCache):
    """The first rank's KV cache, which tells the others of its slots."""

    def __init__(self, stage: Stage, group: Group, geometry: CacheGeometry, grid: Grid) -> None:
        super().__init__(stage.model.geometry, geometry, grid, stage.device, stage.dtype, stage.layers)
        self._group = group
        stage.caches[grid] = self

    def take(self) -> int:
        slot = super().take()
        self._group.tell(Take(self.grid, slot))
        return slot

    def give_back(self, slot: int) -> None:
        super().give_back(slot)
        self._group.tell(GiveBack(self.grid, slot))

    def copy(self, slot: int, to: int) -> None:
        super().copy(slot, to)
        self._group.tell(Copy(self.grid, slot, to))


class RingDenoiser(Denoiser):
    """Passes are begun and finished here; what lies between goes round the ring. For the first rank's thread."""

    def __init__(self, stage: Stage, group: Group, cache: CacheGeometry, sampler: SamplerGeometry) -> None:
        super().__init__(
            stage.model,
            cache,
            sampler,
            stage.device,
            stage.dtype,
            make_cache=lambda grid: ToldCache(stage, group, cache, grid),
        )
        self._stage, self._group = stage, group
        self._counter = itertools.count()
        self._numbers: dict[LatentStream, int] = {}

    def number(self, stream: LatentStream) -> int:
        """By which the ranks know a stream."""
        if stream not in self._numbers:
            self._numbers[stream] = next(self._counter)
        return self._numbers[stream]

    def close(self, stream: LatentStream) -> None:
        super().close(stream)
        self._numbers.pop(stream, None)

    def operation(self, passing: Pass, finals: Sequence[Final | None]) -> Rows:
        """What the other ranks have to know of a pass; finals: for each of its rows, in their order."""
        rows = passing.rows
        return Rows(
            rows[0].stream.cache.grid,
            passing.frames,
            tuple(passing.slots),
            tuple(passing.again),
            tuple(row.context.number for row in rows),
            tuple(self.number(row.stream) for row in rows),
            tuple(finals),
        )

    def _drop(self, cache: RollingKVCache) -> None:
        del self._stage.caches[cache.grid]
        self._group.tell(Drop(cache.grid))
