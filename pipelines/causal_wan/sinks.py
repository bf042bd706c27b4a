"""The sinks of a rolling KV cache: how long they stay, what takes their place, and where in time they stand.

Per layer and slot there are `sinks` entries and one more, into which what concerns no sink is written, so that nothing
has to be decided on the host. What an entry holds:

    zero    the channels of its key that turn with time, turned back to time 0 (only of held sinks, which turn on);
    means   mean key and mean value over its tokens, each of length 1, from which its similarity to a frame is seen;
    born    the index of its latent frame in the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines.causal_wan.device import upload
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry
from pipelines.causal_wan.rope import FrameRotations, Rotation, put_time_channels, time_channels


@dataclass(frozen=True)
class Frames:
    """The latent frames of one pass, row after row."""

    slots: list[int]
    times: list[int]
    """Index of each in its stream."""
    again: list[bool]
    """Whether it was there before, at an earlier step."""

    @property
    def single(self) -> bool:
        """Whether each slot has one. Only then can its window be full."""
        return len(set(self.slots)) == len(self.slots)

    def places(self, g: CacheGeometry) -> list[int]:
        """Where each belongs in its slot, as long as it takes no sink's place."""
        return [
            _place(t + (g.memory == "first" and once_more and t >= g.window - 1), g)
            for t, once_more in zip(self.times, self.again, strict=True)
        ]


class Sinks:
    """What all slots hold of their sinks, beside their keys and values."""

    def __init__(
        self,
        dit: DiTGeometry,
        geometry: CacheGeometry,
        grid: tuple[int, int],
        rotations: FrameRotations,
        device: torch.device,
        dtype: torch.dtype,
        kept: Sequence[int],
    ) -> None:
        """kept: the layers that are kept here."""
        g = self.geometry = geometry
        self.rotations, self.device = rotations, device
        entries = g.sinks + 1
        tokens, turning = grid[0] * grid[1], 2 * rotations.time_pairs
        self._dtype = dtype
        self._zero = (entries, tokens, dit.heads, turning) if g.held else (0,)
        self._means = (entries, 2, dit.heads, dit.head_dim) if g.adaptive else (0,)
        self.zero = {layer: torch.zeros((0, *self._zero), device=device, dtype=dtype) for layer in kept}
        self.means = {layer: torch.zeros((0, *self._means), device=device) for layer in kept}
        self.born = torch.zeros((dit.layers, 0, entries), device=device, dtype=torch.long)
        self.turns = torch.zeros((dit.layers, 0), device=device, dtype=torch.long)
        """How often the ring has moved on since it was full."""
        self.current = torch.zeros((dit.layers, 0), device=device, dtype=torch.long)
        """The place of the current frame, -1 where the ring alone decides."""

    @property
    def bytes(self) -> int:
        per_layer = (*self.zero.values(), *self.means.values())
        return sum(x.nbytes for x in (*per_layer, self.born, self.turns, self.current))

    def enlarge(self, slots: int) -> None:
        for states in (self.zero, self.means):
            for layer, state in states.items():
                states[layer] = enlarged(state, slots)
        self.born, self.turns, self.current = (enlarged(x, slots, 1) for x in (self.born, self.turns, self.current))

    def clear(self, slot: int) -> None:
        """Forgets where the ring stood. The rest is not looked at before it is written anew."""
        self.turns[:, slot] = 0
        self.current[:, slot] = -1

    def copy(self, slot: int, to: int) -> None:
        for state in (*self.zero.values(), *self.means.values()):
            state[to] = state[slot]
        for index in (self.born, self.turns, self.current):
            index[:, to] = index[:, slot]

    def layer(self, layer: int) -> list[Tensor]:
        """As RollingKVCache.layer, of the sinks."""
        numbers = [self.born[layer].flatten(), self.turns[layer], self.current[layer]]
        return [self.zero[layer], self.means[layer], torch.cat(numbers)]

    def empty_layer(self, slots: int) -> list[Tensor]:
        """As RollingKVCache.empty_layer."""
        zero = torch.empty((slots, *self._zero), device=self.device, dtype=self._dtype)
        means = torch.empty((slots, *self._means), device=self.device)
        return [zero, means, torch.empty(slots * (self.geometry.sinks + 3), device=self.device, dtype=torch.long)]

    def adopt(self, layer: int, kept: Sequence[Tensor]) -> None:
        """As RollingKVCache.adopt."""
        self.zero[layer], self.means[layer], numbers = kept
        slots = self.turns.shape[1]
        born, self.turns[layer], self.current[layer] = numbers.split([numbers.numel() - 2 * slots, slots, slots])
        self.born[layer] = born.view(slots, self.geometry.sinks + 1)

    def drop_layer(self, layer: int) -> None:
        """As RollingKVCache.drop_layer."""
        del self.zero[layer], self.means[layer]

    def begin(self, frames: Frames, places: list[int], rows: slice | Tensor) -> SinkStep | None:
        """What there is to do in a pass over these frames, which belong at `places` of the slots in `rows`."""
        g = self.geometry
        if not (g.held or g.adaptive):
            return None
        if g.adaptive:
            return (MovingSinks if g.sink_rule == "move" else CopiedSinks)(self, frames, places, rows)
        if max(frames.times) < g.window and min(frames.times) >= g.sinks:
            return None
        return SinkStep(self, frames, places, rows)


class SinkStep:
    """One pass over the sinks of some slots. As it is, sinks stay as they are and turn on."""

    def __init__(self, sinks: Sinks, frames: Frames, places: list[int], rows: slice | Tensor) -> None:
        g = self._geometry = sinks.geometry
        self._sinks, self._rows = sinks, rows
        entries = [slot * (g.sinks + 1) + min(place, g.sinks) for slot, place in zip(frames.slots, places, strict=True)]
        self._filling = min(places) < g.sinks
        self._entries = upload(torch.tensor(entries), sinks.device)
        """Where in the flat state (slots * (sinks + 1), ...) each frame is noted, as far as the host knows."""
        self._now = sinks.rotations.time(frames.times)
        turning = g.held and frames.single and max(frames.times) >= g.window - 1
        self._turn = self._turned(frames.times) if turning else None

    def places(self, layer: int, keys: Tensor, values: Tensor) -> Tensor | None:
        """Where each frame is to be written, as indices of (slots * window); None: where the host says."""
        del layer, keys, values
        return None

    def keep(self, layer: int, keys: Tensor, values: Tensor, key_pool: Tensor, value_pool: Tensor) -> None:
        """Called once the frames (frames, tokens, heads, D) are in the pools."""
        del values, value_pool
        if self._filling:
            self._note(self._sinks.zero[layer], self._entries, self._at_zero(keys))
        self._turn_on(layer, key_pool, self._turn)

    def _turned(self, times: list[int]) -> Rotation:
        """Where sinks of the stream's first frames stand: (rows, sinks, 1, 1, pairs)."""
        g = self._geometry
        at = [max(i, t - g.window + 1 + i) for t in times for i in range(g.sinks)]
        time = self._sinks.rotations.time(at)
        return Rotation.of(time.cos.unflatten(0, (-1, g.sinks)), time.sin.unflatten(0, (-1, g.sinks)))

    def _at_zero(self, keys: Tensor) -> Tensor:
        """Their channels of time (frames, tokens, heads, 2 * pairs), turned back to time 0."""
        return self._now.back(time_channels(keys, self._sinks.rotations.time_pairs))

    @staticmethod
    def _note(state: Tensor, entries: Tensor, new: Tensor) -> None:
        state.flatten(0, 1).index_copy_(0, entries, new)

    def _turn_on(self, layer: int, pool: Tensor, turn: Rotation | None) -> None:
        """Turns the sinks' keys in the pool to where they stand now."""
        if turn is None:
            return
        a, b = turn(self._of_rows(self._sinks.zero[layer])).chunk(2, dim=-1)
        pairs, half, sinks = a.shape[-1], pool.shape[-1] // 2, self._geometry.sinks
        pool[self._rows, :sinks, ..., :pairs] = a
        pool[self._rows, :sinks, ..., half : half + pairs] = b

    def _of_rows(self, state: Tensor) -> Tensor:
        """The sinks' part (rows, sinks, ...) of a state (slots, sinks or more, ...)."""
        return state[self._rows, : self._geometry.sinks]

    def _means(self, keys: Tensor, values: Tensor) -> Tensor:
        """Means over the tokens, each of length 1: (frames, 2, heads, D), float32."""
        means = torch.stack([keys.mean(dim=1, dtype=torch.float32), values.mean(dim=1, dtype=torch.float32)], dim=1)
        return F.normalize(means.flatten(2), dim=-1).unflatten(-1, means.shape[-2:])

    def _means_at_zero(self, means: Tensor) -> Tensor:
        """With the channels of time of the mean keys turned back to time 0."""
        pairs = self._sinks.rotations.time_pairs
        zero = put_time_channels(means[:, :1], self._now.back(time_channels(means[:, :1], pairs)))
        return torch.cat([zero, means[:, 1:]], dim=1)

    @staticmethod
    def _alike(sinks: Tensor, frames: Tensor) -> Tensor:
        """Mean of the cosines of keys and of values (rows, sinks), of unit means (rows, sinks, 2, heads, D) and of
        frames' (rows, 2, heads, D)."""
        return 0.5 * (sinks * frames[:, None]).flatten(2).sum(dim=-1)


class CopiedSinks(SinkStep):
    """Every sink that is too unlike the current frame becomes a copy of it. Compared as if both stood at time 0."""

    def __init__(self, sinks: Sinks, frames: Frames, places: list[int], rows: slice | Tensor) -> None:
        super().__init__(sinks, frames, places, rows)
        full = [frames.single and time >= self._geometry.window - 1 for time in frames.times]
        self._full = None if all(full) else upload(torch.tensor(full)[:, None], sinks.device)
        self._any_full = any(full)

    def keep(self, layer: int, keys: Tensor, values: Tensor, key_pool: Tensor, value_pool: Tensor) -> None:
        zero, means = self._sinks.zero[layer], self._sinks.means[layer]
        if not (self._filling or self._any_full):
            return
        new_zero, new_means = self._at_zero(keys), self._means_at_zero(self._means(keys, values))
        if self._filling:
            self._note(zero, self._entries, new_zero)
            self._note(means, self._entries, new_means)
        if not self._any_full:
            return
        stale = self._alike(self._of_rows(means), new_means) < self._geometry.sink_threshold
        stale = stale if self._full is None else stale & self._full
        if not _surely_none(stale):
            stale = stale[..., None, None, None]
            for state, new in ((zero, new_zero), (means, new_means), (key_pool, keys), (value_pool, values)):
                state[self._rows, : self._geometry.sinks] = torch.where(stale, new[:, None], self._of_rows(state))
        self._turn_on(layer, key_pool, self._turn)


class MovingSinks(SinkStep):
    """The least alike sink, where it is too unlike the current frame, gives its place to it: which one, and thus where
    the ring stands, differs from layer to layer and is known on the device alone. Compared where both stand in time.
    """

    def __init__(self, sinks: Sinks, frames: Frames, places: list[int], rows: slice | Tensor) -> None:
        super().__init__(sinks, frames, places, rows)
        g = self._geometry
        early = g.memory == "first"  # the ring moves on after a frame's first step, not its last
        full = [
            frames.single and t >= g.window - (early and once_more)
            for t, once_more in zip(frames.times, frames.again, strict=True)
        ]
        numbers = [frames.slots, frames.times, places, [not a for a in frames.again], full]
        self._slots, self._times, self._places, fresh, on = upload(torch.tensor(numbers), sinks.device).unbind(0)
        self._fresh, self._full = fresh.bool(), on.bool()
        self._any_full, self._early = any(full), early
        self._table = self._distances(frames.times) if g.held else None
        self._furthest = torch.arange(g.window - 1, g.window - 1 - g.sinks, -1, device=sinks.device)

    def places(self, layer: int, keys: Tensor, values: Tensor) -> Tensor | None:
        means = self._means(keys, values)
        place = self._decided(layer, means) if self._any_full else self._places
        g = self._geometry
        entries = self._slots * (g.sinks + 1) + place.clamp(max=g.sinks)
        self._note(self._sinks.means[layer], entries, self._means_at_zero(means) if self._geometry.held else means)
        self._note(self._sinks.born[layer], entries, self._times)
        if self._geometry.held and not _surely_none(place < g.sinks):
            self._note(self._sinks.zero[layer], entries, self._at_zero(keys))
        return self._slots * g.window + place

    def keep(self, layer: int, keys: Tensor, values: Tensor, key_pool: Tensor, value_pool: Tensor) -> None:
        del keys, values, value_pool
        if self._any_full:
            self._turn_on(layer, key_pool, self._standing(layer, heads_and_tokens=True))

    def _decided(self, layer: int, means: Tensor) -> Tensor:
        """The place (rows,) of each row's frame."""
        sinks = self._of_rows(self._sinks.means[layer])
        if (turn := self._standing(layer, heads_and_tokens=False)) is not None:
            keys = turn(time_channels(sinks[:, :, 0], self._sinks.rotations.time_pairs))
            sinks = torch.cat([put_time_channels(sinks[:, :, :1], keys[:, :, None]), sinks[:, :, 1:]], dim=2)
        least, which = self._alike(sinks, means).min(dim=1)
        stale = (least < self._geometry.sink_threshold) & self._full
        place = torch.where(stale, which, self._on_ring(layer))
        self._move_on(layer, place)
        return torch.where(self._full, place, self._places)

    def _on_ring(self, layer: int) -> Tensor:
        """The place (rows,) that the ring offers, or that the frame had at an earlier step."""
        turns, current = self._sinks.turns[layer], self._sinks.current[layer]
        had = current[self._slots]
        if self._early:
            return torch.where(had < 0, self._ring_place(turns[self._slots]), had)
        moved = turns[self._slots] + (self._fresh & self._full & (had >= self._geometry.sinks))
        turns.index_copy_(0, self._slots, moved)
        return torch.where(self._fresh | (had < 0), self._ring_place(moved), had)

    def _move_on(self, layer: int, place: Tensor) -> None:
        """Notes where the frame is."""
        turns, current = self._sinks.turns[layer], self._sinks.current[layer]
        if self._early:
            ends = self._fresh & self._full
            moved = turns[self._slots] + (ends & (place >= self._geometry.sinks))
            turns.index_copy_(0, self._slots, moved)
            place = torch.where(ends, self._ring_place(moved), place)
        current.index_copy_(0, self._slots, torch.where(self._full, place, -1))

    def _ring_place(self, turns: Tensor) -> Tensor:
        g = self._geometry
        return g.sinks + turns % (g.window - g.sinks)

    def _distances(self, times: Sequence[int]) -> Rotation:
        """Rotations (rows, window, pairs) of what is 0, 1, ... window - 1 latent frames away from each frame."""
        window = self._geometry.window
        time = self._sinks.rotations.time([t - distance for t in times for distance in range(window)])
        return Rotation.of(time.cos.view(len(times), window, -1), time.sin.view(len(times), window, -1))

    def _standing(self, layer: int, *, heads_and_tokens: bool) -> Rotation | None:
        """Where held sinks stand now: (rows, sinks, 1, pairs), with room for tokens (rows, sinks, 1, 1, pairs)."""
        if self._table is None:
            return None
        age = self._times[:, None] - self._of_rows(self._sinks.born[layer])
        away = torch.minimum(age, self._furthest).clamp(min=0)[..., None]
        cos, sin = (
            table.gather(1, away.expand(-1, -1, table.shape[-1])).unsqueeze(2)
            for table in (self._table.cos, self._table.sin)
        )
        return Rotation.of(cos.unsqueeze(2), sin.unsqueeze(2)) if heads_and_tokens else Rotation.of(cos, sin)


def enlarged(pool: Tensor, slots: int, dim: int = 0) -> Tensor:
    """`pool` with more slots in dimension `dim`, empty."""
    larger = pool.new_zeros(*pool.shape[:dim], slots, *pool.shape[dim + 1 :])
    larger.narrow(dim, 0, pool.shape[dim]).copy_(pool)
    return larger


def _surely_none(flags: Tensor) -> bool:
    """Whether no flag is set, as far as that can be told without waiting for a device: on the CPU, and not compiled."""
    return flags.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(flags.any())


def _place(time: int, g: CacheGeometry) -> int:
    return time if time < g.sinks else g.sinks + (time - g.sinks) % (g.window - g.sinks)
