"""What the benchmark's clients film: pictures made once for all of them, each stamped when it is due."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import VIDEO_CLOCK_RATE, VIDEO_TIME_BASE, MediaStreamError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from streamgen.bench import scenes
from streamgen.bench.barcode import STRIP_ROWS, Barcode, Pixels
from streamgen.bench.measure import Log

MOST_BYTES = 128 * 2**20
"""That a reel's pictures take; a longer video is begun anew after these."""
LEAST_GAP_S = 0.001
"""Between frames of a camera whose frames come unevenly."""
NEUTRAL = 128
"""Chroma of grey."""


class Reel:
    """Pictures of one size, over and over, as video encoders take them: 4:2:0, BT.601, limited range.

    Shared by all cameras of that size, which draw their stamps on it: one at a time, on one event loop.
    """

    def __init__(self, pictures: Iterator[Pixels], width: int, height: int, most: int) -> None:
        """The first of `pictures` (H, W, 3), at most `most` and MOST_BYTES. width, height: of the session.

        Raises MediaFileError where they are of a file that cannot be read.
        """
        width, height = width & ~1, height & ~1  # as video codecs need them
        self.barcode = Barcode(width, height)
        self.height = height
        count = max(1, min(most, MOST_BYTES // (width * height * 3 // 2)))
        cut = (picture[:height, :width] for picture in itertools.islice(pictures, count))
        self._pictures = [_yuv(picture, self.barcode.strip_width) for picture in cut]

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, place: int) -> Pixels:
        """(3 H / 2, W), luma above chroma. The strip of its stamp is to be drawn on."""
        return self._pictures[place % len(self._pictures)]


def reel(file: Path | None, width: int, height: int, most: int) -> Reel:
    """The drawn scene, or a video's pictures. Blocking. Raises MediaFileError."""
    pictures = scenes.synthetic(width, height) if file is None else scenes.from_file(file, width, height)
    return Reel(pictures, width, height, scenes.PERIOD if file is None else most)


class Camera(MediaStreamTrack):
    """Gives a reel's pictures, frame n at n/fps and up to `jitter_s` later; places that were missed are left out."""

    kind = "video"

    def __init__(
        self,
        pictures: Reel,
        log: Log,
        fps: float,
        seconds: float,
        jitter_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ends after `seconds`. What is drawn, and when, goes into `log`, whose source seeds the unevenness."""
        super().__init__()
        self._clock = clock
        self._reel = pictures
        self._log = log
        self._fps = fps
        self._seconds = seconds
        self._jitter_s = jitter_s
        self._random = np.random.default_rng(log.source)
        self._offset = log.source * len(pictures) // 16  # not all at the same picture
        self._place = -1
        self._started: float | None = None
        self._due = 0.0

    async def recv(self) -> VideoFrame:
        """The next frame, when it is due. Raises MediaStreamError at the end."""
        now = self._clock()
        if self._started is None:
            self._started = self._due = now
        passed = now - self._started - self._jitter_s
        self._place = max(self._place + 1, int(passed * self._fps))
        if self.readyState != "live" or self._place / self._fps >= self._seconds:
            raise MediaStreamError
        due = self._started + self._place / self._fps
        if self._jitter_s:
            due = max(due + self._jitter_s * self._random.random(), self._due + LEAST_GAP_S)
        self._due = due
        await asyncio.sleep(due - now)
        picture = self._reel[self._offset + self._place]
        self._reel.barcode.draw_luma(picture[: self._reel.height], self._log.stamp(self._clock()))
        frame = VideoFrame.from_ndarray(picture, format="yuv420p")  # a copy
        frame.pts, frame.time_base = round((due - self._started) * VIDEO_CLOCK_RATE), VIDEO_TIME_BASE
        return frame


def _yuv(picture: Pixels, strip_width: int) -> Pixels:
    """`picture` (H, W, 3) RGB as (3 H / 2, W), grey where stamps are drawn."""
    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    yuv = rgb.reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
    )
    planes = np.array(yuv.to_ndarray(), dtype=np.uint8)
    height, width = picture.shape[:2]
    for chroma in planes[height:].reshape(2, height // 2, width // 2):
        chroma[: STRIP_ROWS // 2, : strip_width // 2] = NEUTRAL
    return planes
