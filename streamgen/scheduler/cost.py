"""How long the engine will take: an estimate fitted to what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WEIGHT = 0.25
"""Share of the newest measurement in the average."""

MAX_SHAPES = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """What the time of a batch depends on."""

    chunks: int
    frames: int
    """Frames per chunk."""
    steps: int
    width: int
    """Pixels."""
    height: int
    """Pixels."""

    @property
    def work(self) -> float:
        """A rough measure of the work, to carry times over to other shapes. Encoding and decoding weigh a step."""
        return float(self.chunks * self.frames * (1 + self.steps) * self.width * self.height)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Moving averages of batch times, by shape. A value: `observed` gives a new one."""

    seconds: Mapping[Shape, float] = field(default_factory=dict)
    """Moving average of the batch time of each shape seen (s)."""

    def estimate(self, shape: Shape) -> float:
        """Seconds that a batch of `shape` takes; of a shape not seen yet, in proportion to its work; 0 at the start."""
        known = self.seconds.get(shape)
        if known is not None:
            return known
        if not self.seconds:
            return 0.0
        nearest = min(self.seconds, key=lambda other: (abs(other.work - shape.work), other.chunks, other.steps))
        return self.seconds[nearest] * shape.work / nearest.work

    def observed(self, shape: Shape, seconds: float) -> CostModel:
        """The model after one more measurement; shapes seen longest ago are forgotten beyond `MAX_SHAPES`."""
        known = self.seconds.get(shape)
        average = seconds if known is None else known + WEIGHT * (seconds - known)
        others = [(other, value) for other, value in self.seconds.items() if other != shape]
        return CostModel(dict([*others[-(MAX_SHAPES - 1) :], (shape, average)]))
