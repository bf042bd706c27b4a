"""A video file, read as upright RGB pictures that keep their timestamps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self, cast

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from streamgen.core import Pixels
from streamgen.errors import MediaFileError

_NOT_VIDEO_FORMATS = frozenset({"tty", "image2", "gif_pipe", "lrc", "srt"})
"""Demuxers that give pictures of text, or one still picture."""

_DEFAULT_RATE = Fraction(25)

MAX_PIXELS = 8192 * 4320
"""Of a picture: a small file can ask for a decoder that takes all memory."""

STRANGERS: Mapping[str, str] = {
    "format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,h264,hevc,ivf,m4v,mxf,gif",
    "protocol_whitelist": "file",
}
"""Options for files that strangers sent: formats that hold their pictures themselves. Playlists and the like name other
files, which would be read from this machine or its network."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame of a file."""

    pixels: Pixels
    """(H, W, 3) RGB."""
    pts: int
    """In units of the file's `time_base`; grows from picture to picture."""
    duration: int
    """In units of `time_base`; 0 where the file does not say."""


class VideoReader:
    """A file's first video stream, upright, with square pixels. A context manager.

    Raises MediaFileError where the file is missing or is no video, and from `pictures` where it cannot be read on.
    """

    def __init__(self, path: Path, *, name: str = "", options: Mapping[str, str] | None = None) -> None:
        """`name` is what errors call the file, its path by default; `options` are FFmpeg's, such as STRANGERS."""
        name = name or str(path)
        if not path.is_file():
            raise MediaFileError(f"{name} is a folder, not a video" if path.is_dir() else f"there is no file {name}")
        self.name = name
        self.damaged = 0
        """Packets so far that could not be decoded and were left out."""
        with _open(path, name, options) as container:
            first = _first_frame(container, _video_stream(container, name), name)
        self._container = _open(path, name, options)
        self._stream = _video_stream(self._container, name)
        self._stream.thread_type = "AUTO"
        self._turns = round(first.rotation / 90) % 4  # quarter turns to the left that put it upright
        width, height = round(first.width * (self._stream.sample_aspect_ratio or 1)), first.height
        self.size = (height, width) if self._turns % 2 else (width, height)
        """Width and height in square pixels, as the file is meant to be seen."""
        self.time_base = self._stream.time_base or 1 / self.rate
        """Unit of the timestamps in seconds."""
        self.audio: Sequence[AudioStream] = self._container.streams.audio

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""
        return self._stream.average_rate or self._stream.guessed_rate or _DEFAULT_RATE

    @property
    def length(self) -> int | None:
        """Frames in the file as far as can be told without decoding it."""
        if self._stream.frames:
            return self._stream.frames
        if self._container.duration:
            return round(self._container.duration / av.time_base * self.rate)
        return None

    def pictures(self, width: int, height: int, on_audio: Callable[[Packet[AudioStream]], None]) -> Iterator[Picture]:
        """Every picture, scaled, in the order of time. Packets of sound go to `on_audio` as they come."""
        scaler = VideoReformatter()
        coded = (height, width) if self._turns % 2 else (width, height)
        last: int | None = None
        for packet in self._packets():
            if packet.stream is not self._stream:
                on_audio(cast("Packet[AudioStream]", packet))
                continue
            for frame in self._decode(cast("Packet[VideoStream]", packet)):
                scaled = scaler.reformat(frame, *coded, "rgb24", interpolation=Interpolation.AREA)
                last = self._timestamp(frame, last)
                pixels = np.ascontiguousarray(np.rot90(cast("Pixels", scaled.to_ndarray()), self._turns))
                yield Picture(pixels, last, frame.duration)

    def _packets(self) -> Iterator[Packet[Stream]]:
        try:
            yield from self._container.demux(self._stream, *self.audio)
        except (av.error.FFmpegError, OSError) as error:
            raise MediaFileError(f"{self.name} cannot be read to its end: {error.strerror}") from None

    def _decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        try:
            return packet.decode()
        except av.error.InvalidDataError:
            self.damaged += 1
            return []
        except av.error.FFmpegError as error:
            raise MediaFileError(f"{self.name} cannot be decoded: {error.strerror}") from None

    def _timestamp(self, frame: VideoFrame, last: int | None) -> int:
        """The frame's own, or the next possible one where the file gives none, or one that does not grow."""
        if frame.pts is not None and (last is None or frame.pts > last):
            return frame.pts
        if last is None:
            return 0
        return last + max(1, round(1 / (self.rate * self.time_base)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()


def _open(path: Path, name: str, options: Mapping[str, str] | None) -> InputContainer:
    try:
        return av.open(path, options=dict(options or {}))
    except (av.error.FFmpegError, OSError) as error:
        raise MediaFileError(f"{name} cannot be read as a video: {error.strerror}") from None


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    kind = container.format.name
    is_video = kind not in _NOT_VIDEO_FORMATS and not kind.endswith("_pipe")
    for stream in container.streams.video if is_video else ():
        if not stream.disposition & Disposition.attached_pic:  # the cover of a music file
            return stream
    raise MediaFileError(f"{name} has no video in it")


def _first_frame(container: InputContainer, stream: VideoStream, name: str) -> VideoFrame:
    """Only a decoded frame tells its size and rotation for sure."""
    if stream.width * stream.height > MAX_PIXELS:
        raise MediaFileError(f"{name} has pictures of {stream.width}x{stream.height}, which is too large")
    for packet in container.demux(stream):
        try:
            for frame in packet.decode():
                return frame
        except av.error.InvalidDataError:
            continue
    raise MediaFileError(f"{name} has no frame that can be decoded")
