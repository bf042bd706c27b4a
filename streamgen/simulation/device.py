"""A device, or several in a row, as they truly are: what work takes there, noise and hiccups included."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from streamgen.engine.work import StageTimes
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import STAGES, UNKNOWN, CostModel, Line, Shape

Factors = tuple[float, float, float, float]
"""Of transfer, encoding, denoising and decoding."""


class Replayed(NamedTuple):
    """What a batch took on a real device."""

    factors: Factors
    """As multiples of the lines."""
    beside_s: float
    """From when it could begin until the service knew of its end, beside encoding, denoising and decoding."""


@dataclass(frozen=True, slots=True)
class Device:
    """What a simulated engine runs on."""

    costs: CostModel
    """The true lines, at speed 1."""
    speed: float = 1.0
    """So many times as fast."""
    spread: float = 0.05
    """Of what each stage takes: the standard deviation of its logarithm, about the mean of the lines."""
    hiccups: float = 0.0
    """Share of the batches that take longer, by `hiccup_s` in the mean."""
    hiccup_s: float = 0.05
    replayed: tuple[Replayed, ...] = ()
    """Instead of spread and hiccups: what one batch after the other took."""
    max_batch: int = 4
    depth: int = 3
    """Batches that it takes at once, those that run included."""
    overlap: bool = False
    slots: int | None = None
    """Sessions whose states its memory holds."""
    stages: int = 1
    """Such devices that batches flow through, each at a part of the work."""
    flight: int = 1
    """Chunks of one session that may be under way at once; with more than one batches flow."""

    @property
    def capacity(self) -> Capacity:
        """As the scheduler knows it."""
        return Capacity(
            self.max_batch, self.overlap, self.slots, stages=self.stages, flight=self.flight, places=self.depth
        )

    def in_a_row(self, stages: int) -> Device:
        """So many of these devices, with chunks that flow through them."""
        return replace(self, stages=stages, flight=max(2, stages), depth=2 * stages)

    @property
    def scaled(self) -> CostModel:
        """The true lines at its speed."""
        lines = {
            key: Line(line.fixed / self.speed, line.row / self.speed, line.error, line.seen)
            for key, line in self.costs.lines.items()
        }
        return CostModel(lines)

    def times(
        self, number: int, shape: Shape, chunks: int, calls: int, rows: int, decoded: int, random: Random
    ) -> StageTimes:
        """What batch number `number` takes."""
        work = {"transfer": (1, chunks), "encode": (1, chunks), "denoise": (calls, rows), "decode": (1, decoded)}
        transfer, encode, denoise, decode = (
            self.costs.line(stage, shape).seconds(*work[stage]) / self.speed * factor if work[stage][1] else 0.0
            for stage, factor in zip(STAGES, self._factors(number, random), strict=True)
        )
        if not self.replayed and random.random() < self.hiccups:
            denoise += random.expovariate(1 / self.hiccup_s)
        return StageTimes(transfer, encode, denoise, decode, chunks, calls, rows, decoded)

    def beside_s(self, number: int) -> float | None:
        """What batch number `number` took beside its stages; None where nothing is replayed (s)."""
        return self.replayed[number % len(self.replayed)].beside_s if self.replayed else None

    def _factors(self, number: int, random: Random) -> Sequence[float]:
        if self.replayed:
            return self.replayed[number % len(self.replayed)].factors
        # of this logarithm's distribution the mean is 1
        return [math.exp(random.gauss(-self.spread * self.spread / 2, self.spread)) for _ in STAGES]

    def warmed_up(self, shapes: Iterable[tuple[Shape, int]]) -> CostModel:
        """What the service knows of it once it is warm: lines through batches of 1 and 2 chunks of (shape, steps)."""
        batches = [(shape, chunks, steps, chunks * steps) for shape, steps in shapes for chunks in (1, 2)]
        return UNKNOWN.seeded((batch[0], self._exactly(*batch)) for batch in batches)

    def _exactly(self, shape: Shape, chunks: int, calls: int, rows: int) -> StageTimes:
        """What a batch takes by the lines."""
        return StageTimes(*self.scaled.costs(shape, chunks, calls, rows), chunks, calls, rows, chunks)


def cost_model(shape: Shape, lines: dict[str, tuple[float, float]]) -> CostModel:
    """True costs from seconds per call and per row of each stage at `shape`; others in proportion to their pixels."""
    model: dict[tuple[str, Shape], Line] = {}
    for stage in STAGES:
        fixed, row = lines[stage]
        key = Shape(1, shape.width, shape.height) if stage == "denoise" else shape
        model[stage, key] = Line(fixed, row, 0.0)
    return CostModel(model)  # type: ignore[arg-type]
