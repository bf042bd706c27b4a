"""Video files for tests, made on the spot."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

MILLISECOND = Fraction(1, 1000)
AUDIO_RATE = 48_000


def make_clip(
    path: Path,
    times_ms: Sequence[int] = range(0, 1000, 100),
    size: tuple[int, int] = (160, 96),
    codec: str = "libx264",
    audio: str | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """A clip with pictures at the given times, white in the top half and growing darker in the lower one.

    With a tone where `audio` names an encoder, and with pixels of shape `aspect`.
    """
    with av.open(path, "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=10))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = MILLISECOND
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        sound = cast(AudioStream, container.add_stream(audio, rate=AUDIO_RATE)) if audio else None
        for index, ms in enumerate(times_ms):
            pixels = np.full((size[1], size[0], 3), 120 - 5 * index % 120, np.uint8)
            pixels[: size[1] // 2] = 255
            frame = VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = ms, MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            _add_tone(container, sound, seconds=1.0)
    return path


def _add_tone(container: OutputContainer, stream: AudioStream, seconds: float) -> None:
    wave = np.sin(np.arange(int(seconds * AUDIO_RATE)) * 2 * np.pi * 440 / AUDIO_RATE)
    samples = (wave * 8000).astype(np.int16).reshape(1, -1)
    frame = AudioFrame.from_ndarray(samples, "s16", "mono")
    frame.rate, frame.pts = AUDIO_RATE, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def turn_left(path: Path) -> Path:
    """Marks an mp4 to be shown turned by 90 degrees counterclockwise, as a phone does: in the matrix of its track."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of other fields
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", 0, -one, 0, one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
