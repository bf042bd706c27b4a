"""The size of a session's pictures: what its client asks for, the rest in the shape of the source. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from streamgen.core import Params, PipelineSpec

Size = tuple[int, int]
"""Width and height in pixels."""

SIZES = frozenset({"width", "height"})
"""Names of the parameters."""

_BOUNDS = Params.__dataclass_fields__["width"].metadata  # those of height are the same

_AREA_COUNTS = 0.25
"""How much an error of the area counts beside one of the shape, both as logarithms."""


def fitted_size(source: Size, spec: PipelineSpec, width: int | None = None, height: int | None = None) -> Size:
    """The size of the result for a source of this size: what is asked for, the rest in the source's shape.

    What is chosen are multiples of `spec.size_multiple` within the bounds of Params and within `spec.max_pixels`. Where
    nothing is asked for, it has about as many pixels as the preset's default size, whatever the shape: one that is too
    long for that is taken for the longest that is not.
    """
    shape = source[0] / source[1]
    if width and height:
        return width, height
    if width:
        return width, _side(width / shape, width, spec)
    if height:
        return _side(height * shape, height, spec), height
    least, most = _bounds(spec)
    area = min(spec.defaults.width * spec.defaults.height, spec.max_pixels)
    longest = min(area / least**2, most**2 / area)
    shape = min(max(shape, 1 / longest), longest)
    ideal = math.sqrt(area * shape)
    sizes = [(w, h) for w in _near(ideal, spec) for h in _near(ideal / shape, spec) if w * h <= spec.max_pixels]
    return min(sizes, key=lambda size: (round(_error(size, shape, area), 9), size[0] * size[1]))


def framed(params: Params, spec: PipelineSpec, asked: Collection[str], source: Size | None) -> Params:
    """`params` with the size that a source gets whose client asked for these of width and height.

    Before the source's first picture came (None) it is taken to have the shape of the preset.
    """
    width = params.width if "width" in asked else None
    height = params.height if "height" in asked else None
    fitted = fitted_size(source or (spec.defaults.width, spec.defaults.height), spec, width, height)
    return replace(params, width=fitted[0], height=fitted[1])


class SourceShape:
    """The shape of a source, as far as it has settled: a camera may be turned, or another one take its place."""

    CLEARLY = 1.1
    """Shapes closer than this are the same: encoders that scale their pictures down round the sides."""
    SETTLED = 5
    """Pictures in a row that have to have another shape before it counts."""

    def __init__(self) -> None:
        self.size: Size | None = None
        """Of the picture that told the shape; None before the first."""
        self._other: Size | None = None
        self._seen = 0

    def saw(self, size: Size) -> bool:
        """A picture of this size came; whether the shape is another now than it was before."""
        if self.size is None:
            self.size = size
            return True
        if self._alike(size, self.size):
            self._other, self._seen = None, 0
            return False
        if self._other is None or not self._alike(size, self._other):
            self._other, self._seen = size, 0
        self._seen += 1
        if self._seen < self.SETTLED:
            return False
        self.size, self._other, self._seen = size, None, 0
        return True

    def _alike(self, one: Size, other: Size) -> bool:
        longer, shorter = one[0] * other[1], one[1] * other[0]
        return max(longer, shorter) < self.CLEARLY * min(longer, shorter)


def _bounds(spec: PipelineSpec) -> Size:
    """The least and the most that a side can have."""
    multiple = spec.size_multiple
    return -(-_BOUNDS["minimum"] // multiple) * multiple, _BOUNDS["maximum"] // multiple * multiple


def _near(ideal: float, spec: PipelineSpec) -> list[int]:
    """The sides next to `ideal`, below and above."""
    least, most = _bounds(spec)
    steps = round(ideal / spec.size_multiple, 6)  # what is whole but for the arithmetic is whole
    return [min(max(turn(steps) * spec.size_multiple, least), most) for turn in (math.floor, math.ceil)]


def _side(ideal: float, other: int, spec: PipelineSpec) -> int:
    """The side nearest to `ideal` beside one that is given."""
    least, most = _bounds(spec)
    most = min(most, spec.max_pixels // other // spec.size_multiple * spec.size_multiple)
    return max(least, min(round(ideal / spec.size_multiple) * spec.size_multiple, most))


def _error(size: Size, shape: float, area: int) -> float:
    width, height = size
    return abs(math.log(width / height / shape)) + _AREA_COUNTS * abs(math.log(width * height / area))
