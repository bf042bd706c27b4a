"""Pictures of a client to the size and the colours of the session."""

from __future__ import annotations

from dataclasses import dataclass

import av
import av.filter
import numpy as np

from streamgen.colours import settle
from streamgen.core import Pixels


@dataclass(frozen=True, slots=True)
class Conversion:
    """All that a filter graph is made for."""

    source: tuple[int, int]
    """Width and height of the pictures that come."""
    format: str
    matrix: int
    range: int
    target: tuple[int, int]
    """Width and height of those that go."""
    whole: bool
    """Whether all of the picture is kept, between black bars; else it covers the target, the rest cut off evenly."""


class Scaler:
    """Crops or frames, scales and converts in one pass, with a filter graph that is kept while nothing changes.

    Not for use by two threads at once.
    """

    def __init__(self) -> None:
        self._made_for: Conversion | None = None
        self._graph = av.filter.Graph()
        self._pts = 0

    def __call__(self, picture: av.VideoFrame, width: int, height: int, whole: bool = False) -> Pixels:
        """(height, width, 3) RGB of `picture`: as much of it as covers them, or the whole of it between black bars.

        Raises av.FFmpegError for a picture that cannot be converted.
        """
        settle(picture)
        conversion = Conversion(
            (picture.width, picture.height),
            picture.format.name,
            picture.colorspace,
            picture.color_range,
            (width, height),
            whole,
        )
        if conversion != self._made_for:
            self._graph = _graph(conversion)
        self._made_for = None
        picture.pts = self._pts = self._pts + 1  # the graph wants them to rise, whatever the client sends
        self._graph.vpush(picture)
        pixels = self._graph.vpull().to_ndarray()
        self._made_for = conversion  # only now: a graph that failed is not used again
        return np.asarray(pixels, dtype=np.uint8)


def _graph(conversion: Conversion) -> av.filter.Graph:
    size, (width, height) = "{}x{}".format(*conversion.source), conversion.target
    graph = av.filter.Graph()
    graph.threads = 1
    nodes = [
        graph.add(
            "buffer",
            f"video_size={size}:pix_fmt={conversion.format}:colorspace={conversion.matrix}:range={conversion.range}"
            ":time_base=1/90000:pixel_aspect=1/1",
        )
    ]
    if conversion.whole:
        inner = _largest(conversion.source, conversion.target)
        nodes += [
            _scale(graph, *inner),
            graph.add("format", "rgb24"),  # before the bars: in 4:2:0 their edges could lie on even pixels only
            graph.add("pad", f"{width}:{height}:(ow-iw)/2:(oh-ih)/2:black"),
        ]
    else:
        cut = _largest(conversion.target, conversion.source)
        nodes += [
            graph.add("crop", "{}:{}".format(*cut)),
            _scale(graph, width, height),
            graph.add("format", "rgb24"),
        ]
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    return graph


def _scale(graph: av.filter.Graph, width: int, height: int) -> av.filter.FilterContext:
    # Without full_chroma_int it rounds colours twice, to 3 levels off. At the same size that flag costs nothing.
    return graph.add("scale", f"{width}:{height}:flags=bilinear+full_chroma_int")


def _largest(shape: tuple[int, int], bounds: tuple[int, int]) -> tuple[int, int]:
    """The largest size of this shape, width to height, within the bounds (pixels, at least 1)."""
    share = min(bounds[0] / shape[0], bounds[1] / shape[1])
    return max(1, round(shape[0] * share)), max(1, round(shape[1] * share))
