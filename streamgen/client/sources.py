"""Where a client's frames come from: a video file or URL, arrays, or a track of aiortc; each in real time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import VIDEO_CLOCK_RATE, VIDEO_TIME_BASE, MediaStreamError
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from streamgen.errors import MediaFileError

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB, uint8."""

SourceLike: TypeAlias = str | Path | Iterable[Pixels] | AsyncIterable[Pixels] | MediaStreamTrack
"""What `Client.open` takes as a source."""

TEXT_ART = "tty"  # libav's name for pictures that it paints from any text file
OPEN_TIMEOUT_S = 10.0  # of a URL that does not answer, and again of one that stops

VideoPacket: TypeAlias = "Packet[VideoStream]"
"""A frame that is encoded already."""

T = TypeVar("T")


class Source(Protocol):
    """Frames in real time: `next` waits until a frame is due."""

    @property
    def goes_on(self) -> bool:
        """Whether its frames come on their own, and pile up where nobody takes them."""
        ...

    async def next(self) -> VideoFrame | VideoPacket | None:
        """The next frame with its media timestamp, None at the end. Called again only after it returned."""
        ...

    async def close(self) -> None:
        """Gives back files and threads."""
        ...


async def open_source(source: SourceLike, fps: float, looped: bool) -> Source:
    """A Source from what a user has. Arrays come at `fps`; files at their own rate, again and again where `looped`.

    Raises MediaFileError for a file that is no video, TypeError for what can be no source.
    """
    match source:
        case str() | Path():
            return await FileSource.open(str(source), looped)
        case MediaStreamTrack():
            return TrackSource(source)
        case AsyncIterable():
            return AsyncArraySource(source, fps)
        case Iterable() if not isinstance(source, np.ndarray):
            return ArraySource(source, fps)
    raise TypeError(f"source must be a path, an iterable of (H, W, 3) arrays or a track, not {type(source).__name__}")


class TrackSource:
    """A track of aiortc, which keeps its own pace. It stays the caller's: closing the session does not stop it."""

    def __init__(self, track: MediaStreamTrack) -> None:
        if track.kind != "video":
            raise TypeError(f"source must be a video track, not {track.kind}")
        self._track = track

    goes_on = True

    async def next(self) -> VideoFrame | VideoPacket | None:
        """See Source."""
        try:
            frame = await self._track.recv()
        except MediaStreamError:
            return None
        if not isinstance(frame, VideoFrame | Packet):
            raise TypeError(f"the track gave a {type(frame).__name__}, not a video frame")
        return frame

    async def close(self) -> None:
        """See Source."""


class Pace:
    """Frame n of a stream at `fps` is due n/fps after the first; places that were missed are left out."""

    def __init__(self, fps: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._fps = fps
        self._clock = clock
        self._started: float | None = None
        self._place = -1

    async def wait(self) -> int:
        """Sleeps until the next frame is due; its media timestamp in units of VIDEO_TIME_BASE."""
        now = self._clock()
        if self._started is None:
            self._started = now
        self._place = max(self._place + 1, int((now - self._started) * self._fps))
        await asyncio.sleep(self._started + self._place / self._fps - now)
        return round(self._place * VIDEO_CLOCK_RATE / self._fps)


class AsyncArraySource:
    """Arrays of an asynchronous iterator, asked for one by one when they are due."""

    goes_on = False

    def __init__(self, frames: AsyncIterable[Pixels], fps: float) -> None:
        self._frames: AsyncIterator[Pixels] = aiter(frames)
        self._pace = Pace(fps)

    async def next(self) -> VideoFrame | None:
        """See Source."""
        pts = await self._pace.wait()
        pixels = await anext(self._frames, None)
        return None if pixels is None else video_frame(pixels, pts)

    async def close(self) -> None:
        """See Source."""


class ArraySource:
    """Arrays of an iterator, which may block: it runs in a thread of its own, and each is asked for when it is due."""

    goes_on = False

    def __init__(self, frames: Iterable[Pixels], fps: float) -> None:
        self._frames: Iterator[Pixels] = iter(frames)
        self._pace = Pace(fps)
        self._thread = WorkThread("streamgen-source")

    async def next(self) -> VideoFrame | None:
        """See Source."""
        pts = await self._pace.wait()
        pixels = await self._thread.run(lambda: next(self._frames, None))
        return None if pixels is None else video_frame(pixels, pts)

    async def close(self) -> None:
        """See Source."""
        self._thread.close()


class FileSource:
    """A video file or URL at its own rate. A reader that falls behind gets the frame that is due, not the oldest."""

    goes_on = False

    def __init__(self, reader: FileReader, thread: WorkThread) -> None:
        self._reader = reader
        self._thread = thread
        self._started: float | None = None

    @classmethod
    async def open(cls, name: str, looped: bool) -> FileSource:
        """Raises MediaFileError."""
        thread = WorkThread("streamgen-file")
        try:
            return cls(await thread.run(lambda: FileReader(name, looped)), thread)
        except BaseException:
            thread.close()
            raise

    async def next(self) -> VideoFrame | None:
        """See Source."""
        if self._started is None:
            self._started = time.monotonic()
        due = time.monotonic() - self._started
        item = await self._thread.run(lambda: self._reader.read(not_before=due))
        if item is None:
            return None
        media_time, frame = item
        await asyncio.sleep(self._started + media_time - time.monotonic())
        frame.pts = round(media_time * VIDEO_CLOCK_RATE)
        frame.time_base = VIDEO_TIME_BASE
        return frame

    async def close(self) -> None:
        """See Source. Does not wait for a read that hangs: the thread closes the file after it."""
        self._thread.close(last=self._reader.close)


class FileReader:
    """Decodes the first video stream of a file; blocking. Times count from 0 and go on rising where `looped`."""

    def __init__(self, name: str, looped: bool) -> None:
        self._label = name if "://" in name else Path(name).name
        self._looped = looped
        self._container = self._open(name)
        if not self._container.streams.video or self._container.format.name == TEXT_ART:
            self._container.close()
            raise MediaFileError(f"{self._label} holds no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._interval = float(1 / (self._stream.average_rate or Fraction(25)))
        self._frames = self._container.decode(self._stream)
        self._origin: float | None = None  # the file's own time of the frame that begins the current round
        self._round = 0.0  # media time at which the current round begins
        self._end = 0.0  # media time at which the next frame would be due

    def read(self, not_before: float = 0.0) -> tuple[float, VideoFrame] | None:
        """(media time in s, picture) of the next frame that is not over at `not_before`, None at the end.

        Raises MediaFileError where the file is broken.
        """
        while (item := self._decode()) is not None and item[0] + self._interval <= not_before:
            pass
        return item

    def close(self) -> None:
        """No more reads."""
        self._container.close()

    def _decode(self) -> tuple[float, VideoFrame] | None:
        frame = self._next_frame()
        if frame is None and self._looped and self._end > self._round:
            self._container.seek(0)
            self._frames = self._container.decode(self._stream)
            self._origin, self._round = None, self._end
            frame = self._next_frame()
        if frame is None:
            if not self._end:
                raise MediaFileError(f"{self._label} holds no picture that can be decoded")
            return None
        pts, base = frame.pts, frame.time_base
        own = (self._origin or 0.0) + self._end - self._round if pts is None or base is None else float(pts * base)
        if self._origin is None:
            self._origin = own
        media_time = max(self._round + own - self._origin, self._end - self._interval / 2)  # never back in time
        self._end = media_time + self._interval
        frame.pict_type = PictureType.NONE  # else the encoder would repeat the file's own choice of key frames
        return media_time, even(frame)

    def _open(self, name: str) -> InputContainer:
        try:
            return av.open(name, timeout=OPEN_TIMEOUT_S)
        except av.FFmpegError as error:
            raise MediaFileError(f"cannot read {self._label} as video: {error.strerror}") from None

    def _next_frame(self) -> VideoFrame | None:
        try:
            return next(self._frames, None)
        except av.FFmpegError as error:
            raise MediaFileError(f"{self._label} is broken after {self._end:.1f} s: {error.strerror}") from None


class SourceTrack(MediaStreamTrack):
    """The track that is sent: counts what it hands out, and keeps the error of a source that fails."""

    kind = "video"

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self.sent = 0
        self.error: Exception | None = None
        self._coming: asyncio.Task[VideoFrame | VideoPacket] | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()

    def hold(self, held: bool) -> None:
        """Whether nothing is to be sent for now: what goes on by itself is let go by, everything else waits."""
        if held:
            self._wanted.clear()
        else:
            self._wanted.set()

    def lend(self) -> MediaStreamTrack:
        """This track for one connection, which stops what it is given when it ends, and not the source."""
        return LentTrack(self)

    async def next(self) -> VideoFrame | VideoPacket:
        """The next frame, for whoever asks first; one who gives up waiting leaves it to the next."""
        if self._coming is None:
            self._coming = asyncio.create_task(self.recv(), name="streamgen source")
        coming = self._coming
        try:
            return await asyncio.shield(coming)
        finally:
            if coming.done() and self._coming is coming:
                self._coming = None

    async def forget(self) -> None:
        """Nobody will ask for a frame any more."""
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.wait([self._coming])
            self._coming = None

    async def recv(self) -> VideoFrame | VideoPacket:
        """The next frame of the source. Raises MediaStreamError when there are no more."""
        if self.readyState != "live":
            raise MediaStreamError
        try:
            frame = await self._next()
        except Exception as error:  # noqa: BLE001 - the border to the user's own code: kept, and raised to the user
            self.error = error
            frame = None
        if frame is None:
            self.stop()
            raise MediaStreamError
        self.sent += 1
        return frame

    async def _next(self) -> VideoFrame | VideoPacket | None:
        if not self._source.goes_on:
            await self._wanted.wait()
        frame = await self._source.next()
        while frame is not None and not self._wanted.is_set():
            frame = await self._source.next()
        return frame


class LentTrack(MediaStreamTrack):
    """Made by `SourceTrack.lend`."""

    kind = "video"

    def __init__(self, track: SourceTrack) -> None:
        super().__init__()
        self._track = track

    async def recv(self) -> VideoFrame | VideoPacket:
        """The next frame. Raises MediaStreamError when there are no more."""
        if self.readyState != "live":
            raise MediaStreamError
        try:
            return await self._track.next()
        except MediaStreamError:
            self.stop()
            raise


class WorkThread:
    """One thread for blocking work, in order: a slow source must not hold up the encoders in the shared pool."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self, last: Callable[[], None] | None = None) -> None:
        """Ends the thread after what it is doing, and after `last`; does not wait for that."""
        if last is not None:
            self._executor.submit(last)
        self._executor.shutdown(wait=False)


def video_frame(pixels: Pixels, pts: int) -> VideoFrame:
    """`pixels` (H, W, 3) RGB uint8 as a frame to send at `pts` (1/90000 s). Raises TypeError, ValueError."""
    given: object = pixels  # from the user's code: its type is a wish
    if not isinstance(given, np.ndarray):
        raise TypeError(f"a source frame must be a uint8 array (H, W, 3), not {type(given).__name__}")
    if given.ndim != 3 or given.shape[2] != 3 or given.dtype != np.uint8:
        raise ValueError(f"a source frame must be a uint8 array (H, W, 3), not {given.dtype} {given.shape}")
    frame = even(VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"))
    frame.pts = pts
    frame.time_base = VIDEO_TIME_BASE
    return frame


def even(frame: VideoFrame) -> VideoFrame:
    """`frame` with even width and height, as video codecs need them."""
    if frame.width % 2 == 0 and frame.height % 2 == 0:
        return frame
    return frame.reformat(width=max(2, frame.width & ~1), height=max(2, frame.height & ~1))
