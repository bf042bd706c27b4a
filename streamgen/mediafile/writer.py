"""A video file in the making, which takes its name only when it is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, cast

import av
import av.error
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from streamgen.errors import MediaFileError
from streamgen.mediafile.reader import Picture


@dataclass(frozen=True, slots=True)
class _Format:
    """How a kind of file is written."""

    video: str
    video_options: dict[str, str]
    audio: str
    """Encoder for sound that cannot be copied into the container."""
    container_options: dict[str, str]


# Without B-frames decoding order is the order of time, and mp4 can say how long uneven timestamps last.
_H264 = ("libx264", {"preset": "veryfast", "crf": "18", "bf": "0"})
_FORMATS = {
    ".mp4": _Format(*_H264, "aac", {"movflags": "faststart"}),
    ".mkv": _Format(*_H264, "aac", {}),
    ".webm": _Format(
        "libvpx-vp9", {"deadline": "realtime", "cpu-used": "5", "row-mt": "1", "crf": "24", "b": "0"}, "libopus", {}
    ),
}

_OPUS_RATE = 48_000


def check_writable(path: Path) -> None:
    """Raises MediaFileError where a video cannot be written to `path`: asked before the work, not after it."""
    if path.suffix.lower() not in _FORMATS:
        raise MediaFileError(f"{path} cannot be written: the name must end in {', '.join(_FORMATS)}")
    if path.is_dir():
        raise MediaFileError(f"{path} cannot be written: it is a folder")
    if not path.parent.is_dir():
        raise MediaFileError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise MediaFileError(f"{path} cannot be written: no permission to write in {path.parent}")


def unfinished(path: Path) -> Path:
    """What a file is called until it is whole: beside `path`, hidden, of the same kind."""
    return path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix.lower()}")


class VideoWriter:
    """A video file in the making: H.264 in .mp4 and .mkv, VP9 in .webm. A context manager.

    It is written beside `path` and takes its name when the context ends well; otherwise nothing is left of it.
    Raises MediaFileError.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        rate: Fraction,
        time_base: Fraction,
        audio: Sequence[AudioStream] = (),
        *,
        name: str = "",
    ) -> None:
        """`name` is what errors call the file, its path by default."""
        check_writable(path)
        self.path = path
        self._name = name or str(path)
        self._unfinished = unfinished(path)
        self._time_base = time_base
        self._durations: dict[int, int] = {}  # of the pictures that the encoder still holds, by their pts
        self._scaler = VideoReformatter()
        kind = _FORMATS[path.suffix.lower()]
        with _reported(self._name):
            self._container = av.open(self._unfinished, "w", container_options=kind.container_options)
            try:
                self._video = cast(
                    "VideoStream", self._container.add_stream(kind.video, rate=rate, options=dict(kind.video_options))
                )
                _describe(self._video, size, time_base)
                self._tracks = {stream.index: self._track(stream, kind.audio) for stream in audio}
            except BaseException:
                self._discard()
                raise

    def _track(self, source: AudioStream, encoder: str) -> _Track:
        if source.codec_context.name in self._container.supported_codecs:
            return _CopiedTrack(self._container, source)
        return _EncodedTrack(self._container, source, encoder)

    def write(self, picture: Picture) -> None:
        """The next picture."""
        frame = VideoFrame.from_ndarray(picture.pixels, "rgb24")
        frame = self._scaler.reformat(
            frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts, frame.duration, frame.time_base = picture.pts, picture.duration, self._time_base
        self._durations[picture.pts] = picture.duration
        with _reported(self._name):
            self._mux_video(self._video.encode(frame))

    def write_audio(self, packet: Packet[AudioStream]) -> None:
        """The next packet of one of the `audio` streams."""
        with _reported(self._name):
            self._tracks[packet.stream.index].write(packet)

    def _mux_video(self, packets: Sequence[Packet[VideoStream]]) -> None:
        """The encoder gives every packet the same duration; the last one's decides how long the file is."""
        for packet in packets:
            assert packet.pts is not None
            packet.duration = self._durations.pop(packet.pts)
            self._container.mux(packet)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._discard()
            return
        try:
            with _reported(self._name):
                self._mux_video(self._video.encode(None))
                self._container.close()
                self._unfinished.replace(self.path)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        with contextlib.suppress(av.error.FFmpegError, OSError):  # it cannot be finished, which is why it goes
            self._container.close()
        self._unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _reported(name: str) -> Iterator[None]:
    """What goes wrong in here is a MediaFileError that names the file."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise MediaFileError(f"{name} cannot be written: {error.strerror}") from None


class _Track(Protocol):
    """A track of sound on its way into the file."""

    def write(self, packet: Packet[AudioStream]) -> None:
        """One packet of the source; an empty one ends the track."""
        ...


class _CopiedTrack:
    """Sound that the container takes as it is."""

    def __init__(self, container: OutputContainer, source: AudioStream) -> None:
        self._container = container
        self._stream = container.add_stream_from_template(source)

    def write(self, packet: Packet[AudioStream]) -> None:
        if packet.dts is not None:  # else it is the empty one at the end
            packet.stream = self._stream
            self._container.mux(packet)


class _EncodedTrack:
    """Sound that has to be encoded anew for its container."""

    def __init__(self, container: OutputContainer, source: AudioStream, encoder: str) -> None:
        self._container = container
        rate = _OPUS_RATE if encoder == "libopus" else source.rate
        self._stream = cast("AudioStream", container.add_stream(encoder, rate=rate))
        self._stream.layout = source.layout

    def write(self, packet: Packet[AudioStream]) -> None:
        with contextlib.suppress(av.error.InvalidDataError):  # damaged sound is left out
            for frame in packet.decode():
                self._container.mux(self._stream.encode(frame))
        if packet.dts is None:
            self._container.mux(self._stream.encode(None))


def _describe(stream: VideoStream, size: tuple[int, int], time_base: Fraction) -> None:
    """Sizes, clock and colours of an output stream, before its first frame."""
    context = stream.codec_context
    context.width, context.height = size
    context.pix_fmt = "yuv420p"
    context.time_base = time_base
    context.colorspace = Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    context.color_range = ColorRange.MPEG
