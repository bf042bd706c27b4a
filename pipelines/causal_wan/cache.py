"""The rolling KV cache: a pool of slots, one per (stream, step). It owns ring, sinks, eviction and positions; attention
gives it the current latent frames' keys and values and gets back all that may be attended to.

A slot has `window` places of one latent frame each, the first `sinks` of them for sinks:

    place     0 .. sinks-1             sinks .. window-1
              sinks, frame i < sinks   ring, frame i at sinks + (i - sinks) % (window - sinks)

Invariants, for a slot that has seen n latent frames:
  - places filled = min(n, window), and they are the first ones;
  - the ring holds the newest frames of those that went into it, each key turned to its own position (its index in the
    stream): all of them, unless the sinks' rule is `move`; then a frame that takes a sink's place takes none here;
  - held sinks: sink i of frame f stands at position max(f, n - window + i), so that no distance ever exceeds the
    window's; absolute ones: at f;
  - a slot that was given back and taken again has n = 0: nothing of its former owner is ever attended to;
  - rows of one pass are of different slots.

What is computed from positions on the host is uploaded once per pass; nothing in a pass waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pipelines.causal_wan.device import upload
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry
from pipelines.causal_wan.rope import FrameRotations, RoPE
from pipelines.causal_wan.sinks import Frames, Sinks, enlarged

LAYER_TENSORS = 5
"""How many tensors `RollingKVCache.layer` gives."""


class RollingKVCache:
    """Keys and values of a DiT's layers for all streams of one picture size. Slots are added as streams come."""

    def __init__(
        self,
        dit: DiTGeometry,
        geometry: CacheGeometry,
        grid: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        layers: Iterable[int] | None = None,
    ) -> None:
        """grid: rows and columns of tokens of a latent frame; layers: those that are kept here, all of them if None."""
        kept = range(dit.layers) if layers is None else list(layers)
        self.geometry = geometry
        self.grid = grid
        self.device = device
        table = dtype if device.type == "cpu" else torch.float32  # CPUs are slow at mixed formats
        self.rotations = FrameRotations(RoPE(dit.rope_pairs, device), grid, table)
        self.sinks = Sinks(dit, geometry, grid, self.rotations, device, dtype, kept)
        self._dtype, self._place = dtype, (geometry.window, grid[0] * grid[1], dit.heads, dit.head_dim)
        place = (0, *self._place)
        self.keys = {layer: torch.zeros(place, device=device, dtype=dtype) for layer in kept}
        """Per layer (slots, window, tokens, heads, D)."""
        self.values = {layer: torch.zeros_like(keys) for layer, keys in self.keys.items()}
        self._seen: list[int] = []
        self._free: list[int] = []

    def take(self) -> int:
        """A clean slot."""
        if not self._free:
            self.reserve(self.slots + 1)
        slot = self._free.pop()
        self._seen[slot] = 0
        self.sinks.clear(slot)
        return slot

    def give_back(self, slot: int) -> None:
        if slot in self._free:
            raise ValueError(f"slot {slot} was given back twice")
        self._free.append(slot)
        self._free.sort(reverse=True)  # the lowest is taken first: neighbours need no copy to be attended to

    def copy(self, slot: int, to: int) -> None:
        """Makes slot `to` hold what `slot` holds."""
        for pool in (*self.keys.values(), *self.values.values()):
            pool[to] = pool[slot]
        self.sinks.copy(slot, to)
        self._seen[to] = self._seen[slot]

    def reserve(self, slots: int) -> None:
        """Makes the pool at least so many slots large, layer by layer; what is in it stays."""
        old = self.slots
        if slots <= old:
            return
        for pools in (self.keys, self.values):
            for layer, pool in pools.items():
                pools[layer] = enlarged(pool, slots)
        self.sinks.enlarge(slots)
        self._seen += [0] * (slots - old)
        self._free = sorted([*self._free, *range(old, slots)], reverse=True)

    @property
    def slots(self) -> int:
        return len(self._seen)

    @property
    def taken(self) -> int:
        return len(self._seen) - len(self._free)

    @property
    def bytes(self) -> int:
        """Device memory of the pool."""
        pools = (*self.keys.values(), *self.values.values())
        return sum(pool.nbytes for pool in pools) + self.sinks.bytes

    def layer(self, layer: int) -> list[Tensor]:
        """All that is kept of a layer, for `adopt` on another device."""
        return [self.keys[layer], self.values[layer], *self.sinks.layer(layer)]

    def empty_layer(self) -> list[Tensor]:
        """Room for what `layer` would give of a layer that is not kept here."""
        place = (self.slots, *self._place)
        pools = [torch.empty(place, device=self.device, dtype=self._dtype) for _ in range(2)]
        return pools + self.sinks.empty_layer(self.slots)

    def adopt(self, layer: int, kept: Sequence[Tensor]) -> None:
        """Keeps a layer, as another cache of as many slots kept it."""
        self.keys[layer], self.values[layer], *rest = kept
        self.sinks.adopt(layer, rest)

    def drop_layer(self, layer: int) -> None:
        """A layer is kept elsewhere from now on."""
        del self.keys[layer], self.values[layer]
        self.sinks.drop_layer(layer)

    def seen(self, slot: int) -> int:
        """Latent frames that the slot has seen."""
        return self._seen[slot]

    def begin(self, slots: Sequence[int], again: Sequence[bool] | None = None, frames: int = 1) -> CacheStep:
        """The next latent frames of each slot (all different), as rows of one forward pass.

        again: of which rows the frames are not the next ones but once more the last ones, at a later step.
        frames: latent frames of a row; more than one only while the window is not full.
        """
        again = [False] * len(slots) if again is None else list(again)
        if len(set(slots)) != len(slots):
            raise ValueError(f"rows of one pass need different slots, not {list(slots)}")
        starts = [self._seen[slot] - frames * once_more for slot, once_more in zip(slots, again, strict=True)]
        if min(starts) < 0:
            raise ValueError("a slot that has seen nothing cannot be asked for the same frames again")
        if frames > 1 and max(starts) + frames > self.geometry.window:
            raise ValueError(f"{frames} latent frames at once do not fit a window of {self.geometry.window} any more")
        for slot, start in zip(slots, starts, strict=True):
            self._seen[slot] = start + frames
        return CacheStep(self, list(slots), starts, again, frames)


class CacheStep:
    """One forward pass over rows of a cache: the positions of its tokens, and `extend` for each layer in turn."""

    def __init__(
        self, cache: RollingKVCache, slots: list[int], starts: list[int], again: list[bool], frames: int
    ) -> None:
        window = cache.geometry.window
        self._cache, self._frames = cache, frames
        self.rotation = cache.rotations([range(start, start + frames) for start in starts])
        """Turns queries and keys (rows, tokens, heads, D) of the current frames to their positions."""
        filled = [min(start + frames, window) for start in starts]
        self._filled = max(filled)
        self.mask = self._mask(filled)
        known = Frames(
            slots=[slot for slot in slots for _ in range(frames)],
            times=[start + i for start in starts for i in range(frames)],
            again=[once_more for once_more in again for _ in range(frames)],
        )
        self._known = known
        self._places = known.places(cache.geometry)
        self._rows = _selection(slots, cache.device)
        self._sinks = cache.sinks.begin(known, self._places, self._rows)
        flat = [slot * window + place for slot, place in zip(known.slots, self._places, strict=True)]
        self._flat = upload(torch.tensor(flat), cache.device)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Takes in the turned keys and the values (rows, tokens, heads, D) of the current frames in `layer`.

        Returns the keys and values (rows, places * tokens, heads, D) to attend to, the current frames' among them.
        """
        pools = self._cache.keys[layer], self._cache.values[layer]
        if self._frames > 1:
            keys, values = (x.unflatten(1, (self._frames, -1)).flatten(0, 1) for x in (keys, values))
        places = self._sinks.places(layer, keys, values) if self._sinks else None
        for pool, new in zip(pools, (keys, values), strict=True):
            self._write(pool, new, places)
        if self._sinks:
            self._sinks.keep(layer, keys, values, *pools)
        k, v = (self._attended(pool) for pool in pools)
        return k, v

    def _write(self, pool: Tensor, new: Tensor, places: Tensor | None) -> None:
        """Puts frames (frames, tokens, heads, D) where they belong."""
        if places is None and len(self._places) == 1 and not torch.compiler.is_compiling():
            pool[self._known.slots[0], self._places[0]] = new[0]  # a number would be compiled in
        else:
            pool.flatten(0, 1).index_copy_(0, self._flat if places is None else places, new)

    def _attended(self, pool: Tensor) -> Tensor:
        """(rows, places * tokens, heads, D): a view, unless the slots are no neighbours or not full yet."""
        filled = pool[:, : self._filled]
        rows = filled[self._rows] if isinstance(self._rows, slice) else filled.index_select(0, self._rows)
        return rows.flatten(1, 2)

    def _mask(self, filled: list[int]) -> Tensor | None:
        """(rows, 1, 1, keys), False where a place is still empty; None where all rows have equally many frames."""
        if len(set(filled)) == 1:
            return None
        tokens = self._cache.grid[0] * self._cache.grid[1]
        mask = torch.arange(max(filled) * tokens) < torch.tensor(filled)[:, None] * tokens
        return upload(mask[:, None, None], self._cache.device)


def _selection(slots: list[int], device: torch.device) -> slice | Tensor:
    """Slots that follow one another as a slice, which needs no copy; others as indices."""
    if all(b == a + 1 for a, b in pairwise(slots)):
        return slice(slots[0], slots[-1] + 1)
    return upload(torch.tensor(slots), device)
