"""The rolling KV cache: a pool of slots, one per (stream, step). It owns ring, sinks, eviction and positions; attention
gives it the current latent frame's keys and values and gets back all that may be attended to.

A slot has `window` places of one latent frame each, the first `sinks` of them for sinks:

    place     0 .. sinks-1             sinks .. window-1
              sinks, frame i < sinks   ring, frame i at sinks + (i - sinks) % (window - sinks)

Invariants, for a slot that has seen n latent frames:
  - places filled = min(n, window), and they are the first ones;
  - the ring holds the newest window - sinks frames, each key turned to its own position (its index in the stream);
  - sink i stands at position min(i, n - window + i) seen from the newest frame n - 1: true at first, then held at the
    window's far end, so that no distance ever exceeds what the model was trained on;
  - a slot that was given back and taken again has n = 0: nothing of its former owner is ever attended to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry
from pipelines.causal_wan.rope import RoPE, Rotation


class RollingKVCache:
    """Keys and values of every layer for all streams of one picture size. Slots are added as streams come."""

    def __init__(
        self, dit: DiTGeometry, geometry: CacheGeometry, grid: tuple[int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        """grid: rows and columns of tokens of a latent frame."""
        self.geometry = geometry
        self.grid = grid
        self.rope = RoPE(dit.rope_pairs, device)
        tokens = grid[0] * grid[1]
        self._shape = (dit.layers, 0, geometry.window, tokens, dit.heads, dit.head_dim)
        self.keys = torch.zeros(self._shape, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.sink_keys = torch.zeros_like(self.keys[:, :, : geometry.sinks])
        """Keys of the sinks at time 0, from which they are turned to where they stand now."""
        self._seen: list[int] = []
        self._free: list[int] = []

    def take(self) -> int:
        """A clean slot."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._seen[slot] = 0
        return slot

    def give_back(self, slot: int) -> None:
        if slot in self._free:
            raise ValueError(f"slot {slot} was given back twice")
        self._free.append(slot)

    @property
    def slots(self) -> int:
        return len(self._seen)

    @property
    def taken(self) -> int:
        return len(self._seen) - len(self._free)

    def seen(self, slot: int) -> int:
        """Latent frames that the slot has seen."""
        return self._seen[slot]

    def begin(self, slots: Sequence[int]) -> CacheStep:
        """The next latent frame of each slot (all different), as rows of one forward pass."""
        if len(set(slots)) != len(slots):
            raise ValueError(f"rows of one pass need different slots, not {list(slots)}")
        step = CacheStep(self, list(slots), [self._seen[slot] for slot in slots])
        for slot in slots:
            self._seen[slot] += 1
        return step

    def _grow(self) -> None:
        """Doubles the pool; what is in it stays."""
        old = len(self._seen)
        new = max(4, 2 * old)
        self.keys, self.values = self._enlarged(self.keys, new), self._enlarged(self.values, new)
        self.sink_keys = self._enlarged(self.sink_keys, new)
        self._seen += [0] * (new - old)
        self._free += range(new - 1, old - 1, -1)

    @staticmethod
    def _enlarged(pool: Tensor, slots: int) -> Tensor:
        larger = pool.new_zeros(pool.shape[0], slots, *pool.shape[2:])
        larger[:, : pool.shape[1]] = pool
        return larger


class CacheStep:
    """One forward pass over rows of a cache: the positions of its tokens, and `extend` for each layer in turn."""

    def __init__(self, cache: RollingKVCache, slots: list[int], frames: list[int]) -> None:
        g, rope = cache.geometry, cache.rope
        dtype = cache.keys.dtype
        self._cache, self._slots, self._frames = cache, slots, frames
        self.rotation = Rotation(rope.angles(frames, *cache.grid), dtype)
        """Turns queries and keys (rows, tokens, heads, D) of the current frame to their positions."""
        self._places = [f if f < g.sinks else g.sinks + (f - g.sinks) % (g.window - g.sinks) for f in frames]
        self._filled = [min(f + 1, g.window) for f in frames]
        self._now = Rotation(rope.time_angles(frames), dtype)
        self._sinks = [Rotation(rope.time_angles([max(i, f + 1 - g.window + i) for f in frames]), dtype)
                       for i in range(g.sinks)]  # fmt: skip
        self.mask = self._mask()

    def _mask(self) -> Tensor | None:
        """(rows, 1, 1, keys), False where a place is still empty; None where all rows have equally many frames."""
        if len(set(self._filled)) == 1:
            return None
        tokens = self._cache.keys.shape[3]
        mask = torch.zeros(len(self._slots), max(self._filled) * tokens, dtype=torch.bool)
        for row, filled in enumerate(self._filled):
            mask[row, : filled * tokens] = True
        return mask[:, None, None].to(self._cache.keys.device)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Takes in the turned keys and the values (rows, tokens, heads, D) of the current frame in `layer`.

        Returns the keys and values (rows, places * tokens, heads, D) to attend to, the current frame's among them.
        """
        cache, filled = self._cache, max(self._filled)
        for row, (slot, place) in enumerate(zip(self._slots, self._places, strict=True)):
            cache.keys[layer, slot, place] = keys[row]
            cache.values[layer, slot, place] = values[row]
        self._keep_sinks(layer, keys, values)
        if len(self._slots) == 1:
            slot = self._slots[0]
            k, v = cache.keys[layer, slot : slot + 1, :filled], cache.values[layer, slot : slot + 1, :filled]
        else:
            k, v = cache.keys[layer, self._slots, :filled], cache.values[layer, self._slots, :filled]
        return k.flatten(1, 2), v.flatten(1, 2)

    def _keep_sinks(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Fills sinks from the first frames; later replaces those that no longer resemble the current frame."""
        if not self._sinks:
            return
        cache, g = self._cache, self._cache.geometry
        at_zero = self._now.back(keys)
        for row, (slot, frame) in enumerate(zip(self._slots, self._frames, strict=True)):
            if frame < g.sinks:
                cache.sink_keys[layer, slot, frame] = at_zero[row]
            elif frame >= g.window - 1:
                for i, turn in enumerate(self._sinks):
                    self._keep_sink(layer, slot, i, at_zero[row], values[row], turn, row)

    def _keep_sink(self, layer: int, slot: int, i: int, key: Tensor, value: Tensor, turn: Rotation, row: int) -> None:
        """Replaces sink i where it is too unlike (key, value), and turns it to where it stands now. No host sync."""
        cache = self._cache
        sink_key, sink_value = cache.sink_keys[layer, slot, i], cache.values[layer, slot, i]
        alike = 0.5 * (_similarity(sink_key, key) + _similarity(sink_value, value))
        stale = alike < cache.geometry.sink_threshold
        torch.where(stale, key, sink_key, out=sink_key)
        torch.where(stale, value, sink_value, out=sink_value)
        a, b = sink_key.chunk(2, dim=-1)
        cos, sin = turn.cos[row], turn.sin[row]
        cache.keys[layer, slot, i] = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the means over the tokens, (tokens, heads, D) each; a scalar tensor."""
    return F.cosine_similarity(a.mean(dim=0).flatten().float(), b.mean(dim=0).flatten().float(), dim=0)
