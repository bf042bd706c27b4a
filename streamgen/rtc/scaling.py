"""Pictures of a client to the size of the session: scaled until they cover it, the rest cut off evenly."""

from __future__ import annotations

import av
import av.filter
import numpy as np

from streamgen.core import Pixels


class Scaler:
    """Crops to the aspect and scales in one pass, with a filter graph that is kept while the geometry stays.

    Not for use by two threads at once.
    """

    def __init__(self) -> None:
        self._geometry: tuple[int, int, str, int, int] | None = None
        self._graph = av.filter.Graph()
        self._pts = 0

    def __call__(self, picture: av.VideoFrame, width: int, height: int) -> Pixels:
        """(height, width, 3) RGB of `picture`. Raises av.FFmpegError for a picture that cannot be converted."""
        geometry = (picture.width, picture.height, picture.format.name, width, height)
        if geometry != self._geometry:
            self._graph = _graph(picture, width, height)
        self._geometry = None
        picture.pts = self._pts = self._pts + 1  # the graph wants them to rise, whatever the client sends
        self._graph.vpush(picture)
        pixels = self._graph.vpull().to_ndarray()
        self._geometry = geometry  # only now: a graph that failed is not used again
        return np.asarray(pixels, dtype=np.uint8)


def _graph(picture: av.VideoFrame, width: int, height: int) -> av.filter.Graph:
    share = min(picture.width / width, picture.height / height)
    crop_width, crop_height = max(1, round(width * share)), max(1, round(height * share))
    graph = av.filter.Graph()
    graph.threads = 1
    nodes = [
        graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base
        ),
        graph.add("crop", f"{min(crop_width, picture.width)}:{min(crop_height, picture.height)}"),
        graph.add("scale", f"{width}:{height}:flags=bilinear"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph
