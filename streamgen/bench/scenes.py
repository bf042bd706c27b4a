"""Pictures for the benchmark to send: a moving drawn scene, or a video file, over and over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from streamgen.bench.barcode import Pixels
from streamgen.errors import MediaFileError

PERIOD = 144
"""Pictures after which the drawn scene begins anew."""


def synthetic(width: int, height: int, seed: int = 0) -> Iterator[Pixels]:
    """Without end: a camera that circles over a smooth coloured landscape, and a ball that crosses it. (H, W, 3)."""
    margin = max(16, min(width, height) // 4)
    land = _landscape(width + 2 * margin, height + 2 * margin, np.random.default_rng(seed))
    rows, columns = np.mgrid[0:height, 0:width]
    radius = height / 6
    frame = 0
    while True:
        angle = 2 * np.pi * frame / PERIOD
        top = margin + round(margin * np.sin(angle))
        left = margin + round(margin * np.cos(angle))
        picture = land[top : top + height, left : left + width].copy()
        x, y = frame * width / 48 % width, height * (0.6 + 0.25 * np.sin(4 * angle))
        picture[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] = (230, 80, 40)
        yield picture
        frame += 1


def from_file(path: Path, width: int, height: int) -> Iterator[Pixels]:
    """Without end: the pictures of a video, scaled to width x height. Raises MediaFileError at `next`."""
    reformatter = VideoReformatter()
    while True:
        count = 0
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise MediaFileError(f"{path.name} holds no video stream")
                for frame in container.decode(video=0):
                    count += 1
                    picture = reformatter.reformat(frame, width=width, height=height, format="rgb24")
                    yield picture.to_ndarray().astype(np.uint8, copy=False)
        except av.FFmpegError as error:
            raise MediaFileError(f"cannot read {path.name} as video: {error.strerror}") from None
        if not count:
            raise MediaFileError(f"{path.name} holds no picture that can be decoded")


def _landscape(width: int, height: int, random: np.random.Generator) -> Pixels:
    """A few coloured waves with edges: what a camera sees has both."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.zeros((height, width, 3), np.float32)
    for channel in range(3):
        for _ in range(3):
            wave = random.uniform(20, 90)
            angle, phase = random.uniform(0, 2 * np.pi, 2)
            distance = columns * np.cos(angle) + rows * np.sin(angle)
            picture[:, :, channel] += np.sin(distance * 2 * np.pi / wave + phase)
    picture = 128 + 36 * picture
    picture[(rows // 24 + columns // 24) % 5 == 0] *= 0.7
    return picture.clip(0, 255).astype(np.uint8)
