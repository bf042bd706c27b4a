"""One copy of the model on one device, or on several as a ring: its split, and how many sessions it holds.

A chunk goes round `steps` times. Rows of other sessions, and of the session's next chunks, are at work on the other
devices meanwhile: a ring makes no chunk faster than one device would, it begins the next one sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor, inf, isfinite
from typing import Literal

from pipelines.causal_wan.geometry import CHUNK
from pipelines.causal_wan.memory import Shares
from pipelines.ring.split import Cost, Split, best

USABLE_MEMORY = 0.9
"""Of a device's memory. The rest is for what a batch needs while it runs (see device.SPARE)."""

USABLE_TIME = 0.9
"""Of a device's time that is promised to sessions (as the service's scheduler does)."""


@dataclass(frozen=True, slots=True)
class Device:
    """What can hold blocks, and how fast it is at a preset's default size."""

    name: str
    memory_bytes: int | None
    """None where that is no bound."""
    row_s: float
    """A row through the whole DiT."""
    encode_s: float
    """A chunk."""
    decode_s: float
    """A chunk."""
    hop_s: float = 0.0
    """To hand a row on to the next device, while both work on others."""
    estimated: bool = False
    """Whether the times are estimates; else they were measured."""

    def __post_init__(self) -> None:
        times = self.row_s, self.encode_s, self.decode_s, self.hop_s
        if not all(isfinite(time) and time >= 0 for time in times) or not self.row_s:
            raise ValueError(f"{self.name}: {times} are no times of a row, encoding, decoding and a hop")

    @property
    def usable_bytes(self) -> float:
        """Of its memory."""
        return inf if self.memory_bytes is None else USABLE_MEMORY * self.memory_bytes


@dataclass(frozen=True, slots=True)
class Load:
    """The sessions that are to be served, all of them alike."""

    sessions: int
    fps: float
    steps: int
    budget_s: float
    """From a frame's arrival to its result."""

    def __post_init__(self) -> None:
        if self.sessions < 1 or self.steps < 1 or self.fps <= 0 or self.budget_s <= 0:
            raise ValueError(f"a load has sessions, frames, steps and a budget, not {self}")

    @property
    def period_s(self) -> float:
        """Between two chunks of a session."""
        return CHUNK / self.fps

    @property
    def room_s(self) -> float:
        """What is left of the first frame's budget when a chunk's last one is there; not negative."""
        return max(self.budget_s - (CHUNK - 1) / self.fps, 0.0)


Bound = Literal["memory", "speed", "budget"]


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of the model, and what it does under a load."""

    devices: tuple[Device, ...]
    split: Split
    """Blocks of each device."""
    stages_s: tuple[float, ...]
    """What a row takes of each device, encoding and decoding spread over a chunk's rows."""
    chunk_s: float
    """A chunk, from its frames to its pictures, when nothing else runs."""
    sessions: int
    """That it holds."""
    capacity: float
    """The same, but for what is left of its time, which counts as a part of a session."""
    bound: Bound
    """What a further session would be too much for."""

    @property
    def rows_per_s(self) -> float:
        return 1 / max(self.stages_s)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why devices hold not even one session of a load."""

    text: str
    excess: float
    """By how many times it is too slow; infinite where it does not fit."""


def replica_of(devices: Sequence[Device], shares: Shares, load: Load) -> Replica | Trouble:
    """These devices as one ring, with the split that makes its slowest rank fastest. shares: for the load's steps."""
    plan = _Plan(tuple(devices), shares, load)
    found = plan.holding(1)
    if isinstance(found, Trouble):
        return found
    low, high = 1, floor(found.capacity)
    while low < high:
        middle = (low + high + 1) // 2
        more = plan.holding(middle)
        if isinstance(more, Trouble):
            high = middle - 1
        else:
            low, found = middle, more
    if found.capacity >= found.sessions + 1:
        return replace(found, capacity=float(found.sessions), bound="memory")
    return found


@dataclass(frozen=True, slots=True)
class _Plan:
    devices: tuple[Device, ...]
    shares: Shares
    load: Load

    def holding(self, sessions: int) -> Replica | Trouble:
        """With the best split that leaves memory for so many sessions."""
        split = self._split(sessions)
        if isinstance(split, Trouble):
            return split
        stages = tuple(cost.stage_s(blocks) for cost, blocks in zip(self._costs(), split, strict=True))
        round_s = sum(stages) + self._hops_s()
        if trouble := self._too_slow(sessions, max(stages), round_s):
            return trouble
        fast = self._in_rate(max(stages)), self._in_time(max(stages), round_s)
        bound: Bound = "speed" if fast[0] <= fast[1] else "budget"
        return Replica(self.devices, split, stages, self.load.steps * round_s, sessions, min(fast), bound)

    def _split(self, sessions: int) -> Split | Trouble:
        limits = [self._limit(rank, sessions) for rank in range(len(self.devices))]
        layers = self.shares.layers
        for device, limit in zip(self.devices, limits, strict=True):
            if limit < 0:
                return Trouble(f"does not fit: {device.name} cannot hold its end of the model and a session", inf)
        if sum(limits) < layers:
            return Trouble(self._too_large(limits, sessions), inf)
        return best(self._costs(), layers, limits)

    def _limit(self, rank: int, sessions: int) -> int:
        """Most blocks that its memory holds; negative where it does not even hold the rest."""
        block, last = self.shares.block, len(self.devices) - 1
        free = self.devices[rank].usable_bytes - self.shares.part(0, first=rank == 0, last=rank == last).of(sessions)
        blocks = free / (block.weights + sessions * block.session)
        return floor(min(blocks, self.shares.layers))

    def _costs(self) -> list[Cost]:
        """Encoding and decoding count for each of a chunk's rows in part."""
        steps, last = self.load.steps, len(self.devices) - 1
        return [
            Cost(
                device.row_s / self.shares.layers,
                (device.encode_s * (rank == 0) + device.decode_s * (rank == last)) / steps,
            )
            for rank, device in enumerate(self.devices)
        ]

    def _hops_s(self) -> float:
        """Of one round; from the last device to the first as well."""
        return sum(device.hop_s for device in self.devices) if len(self.devices) > 1 else 0.0

    def _in_rate(self, slowest_s: float) -> float:
        """Sessions for which rows come out fast enough."""
        return USABLE_TIME * self.load.period_s / (self.load.steps * slowest_s)

    def _in_time(self, slowest_s: float, round_s: float) -> float:
        """Sessions whose chunks, should they come all at once, are all in time.

        Their rows enter one after the other, and enter again when they have been round, or when the others' rows have
        gone in before them, whichever takes longer: the last chunk is done after

            (sessions - 1) x slowest + (steps - 1) x max(round, sessions x slowest) + round
        """
        steps, left = self.load.steps, self.load.room_s - round_s + slowest_s
        few = (left - (steps - 1) * round_s) / slowest_s
        return few if few * slowest_s <= round_s else left / (steps * slowest_s)

    def _too_slow(self, sessions: int, slowest_s: float, round_s: float) -> Trouble | None:
        load = self.load
        chunk_s, fps = load.steps * round_s, load.fps * self._in_rate(slowest_s)
        if sessions > self._in_time(slowest_s, round_s):
            text = f"too slow: a chunk takes {chunk_s:.2f} s, and has {load.room_s:.2f} when its last frame is there"
            return Trouble(text, chunk_s / load.room_s if load.room_s else inf)
        if sessions > self._in_rate(slowest_s):
            return Trouble(f"too slow: a session would get {fps:.1f} of {load.fps:g} fps", load.fps / fps)
        return None

    def _too_large(self, limits: Sequence[int], sessions: int) -> str:
        layers = self.shares.layers
        if len(limits) > 1:
            held = " + ".join(map(str, limits))
            return f"does not fit: beside a session they hold {held} = {sum(limits)} of the {layers} blocks"
        takes = self.shares.part(layers, first=True, last=True).of(sessions)
        gives = self.devices[0].usable_bytes
        return f"does not fit: it takes {takes / 1e9:.1f} GB with a session, of {gives / 1e9:.1f} that can be used"
