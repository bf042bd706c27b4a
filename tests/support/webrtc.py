"""A WebRTC client for tests of the service, made of aiortc alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import Any

import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from numpy.typing import NDArray

from streamgen.ice import IceSettings, PeerConnection

OFFLINE = RTCConfiguration(iceServers=[])


class Camera(MediaStreamTrack):
    """Grey frames at `fps`, each a little brighter than the one before; or the same `picture` again and again."""

    kind = "video"

    def __init__(
        self, fps: float = 30.0, width: int = 64, height: int = 64, picture: NDArray[np.uint8] | None = None
    ) -> None:
        super().__init__()
        self._fps = fps
        self._shape = (height, width, 3)
        self.picture = picture
        self.given = 0
        self._began = time.monotonic()
        self.blocked = asyncio.Event()

    async def recv(self) -> av.VideoFrame:
        if self.blocked.is_set():
            await asyncio.Event().wait()
        number = self.given
        await asyncio.sleep(max(0.0, self._began + number / self._fps - time.monotonic()))
        grey = np.full(self._shape, 60 + number % 100, np.uint8)
        frame = av.VideoFrame.from_ndarray(grey if self.picture is None else self.picture, format="rgb24")
        frame.pts = round(number / self._fps * 90000)
        frame.time_base = Fraction(1, 90000)
        self.given += 1
        return frame


TONE_HZ = 440.0


class Microphone(MediaStreamTrack):
    """A tone, in pieces of 20 ms."""

    kind = "audio"
    PIECE = 960

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._given = 0

    async def recv(self) -> av.AudioFrame:
        await asyncio.sleep(max(0.0, self._began + self._given * 0.02 - time.monotonic()))
        times = (np.arange(self.PIECE) + self._given * self.PIECE) / 48000
        wave = (8000 * np.sin(2 * np.pi * TONE_HZ * times)).astype(np.int16)
        piece = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        piece.sample_rate, piece.pts, piece.time_base = 48000, self._given * self.PIECE, Fraction(1, 48000)
        self._given += 1
        return piece


class Client:
    """Offers, answers, and keeps what comes back."""

    def __init__(
        self,
        *,
        audio: bool = False,
        tone: bool = False,
        split: bool = False,
        fps: float = 30.0,
        codec: str | None = None,
        picture: NDArray[np.uint8] | None = None,
        restarts: bool = False,
    ) -> None:
        """`codec`, as H264, is the only one offered; `picture` is what the camera sees; `tone` has it send sound.
        With `restarts` its ICE can be restarted, for which it is not made of aiortc alone."""
        self.connection = PeerConnection([], IceSettings()) if restarts else RTCPeerConnection(OFFLINE)
        self.camera = Camera(fps, picture=picture)
        self.channel = self.connection.createDataChannel("control")
        self.channel.on("message", self._heard)
        self.messages: list[dict[str, Any]] = []
        self.frames: list[av.VideoFrame] = []
        self.sounds: list[av.AudioFrame] = []
        self._readers: list[asyncio.Task[None]] = []
        self.connection.on("track", self._track)
        if tone:
            self.connection.addTransceiver(Microphone())
        if audio:
            self.connection.addTransceiver("audio")
        if split:
            self.connection.addTransceiver(self.camera, direction="sendonly")
            self.connection.addTransceiver("video", direction="recvonly")
        else:
            self.connection.addTransceiver(self.camera)
        if codec is not None:
            known = RTCRtpSender.getCapabilities("video").codecs
            for transceiver in self.connection.getTransceivers():
                transceiver.setCodecPreferences([one for one in known if one.mimeType == f"video/{codec}"])

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def accept(self, sdp: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    def send(self, **message: object) -> None:
        self.channel.send(json.dumps(message))

    def heard(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    async def close(self) -> None:
        await self.connection.close()
        self.camera.stop()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def _heard(self, text: str) -> None:
        self.messages.append(json.loads(text))

    def _track(self, track: MediaStreamTrack) -> None:
        self._readers.append(asyncio.create_task(self._read(track)))

    async def _read(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame = await track.recv()
                (self.frames if isinstance(frame, av.VideoFrame) else self.sounds).append(frame)
        except MediaStreamError:
            return


@asynccontextmanager
async def client(**options: Any) -> AsyncIterator[Client]:
    made = Client(**options)
    try:
        yield made
    finally:
        await made.close()


async def until(condition: Callable[[], object], what: str = "it") -> None:
    """Waits until `condition` holds; the test's own time limit ends it where it never does."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what} did not happen")


@asynccontextmanager
async def no_leaks() -> AsyncIterator[None]:
    """Every task that begins within has to end within. (A fixture begins in one task and ends in another.)"""
    before = asyncio.all_tasks()
    yield
    for _ in range(300):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"tasks left: {[task.get_coro() for task in left]}")
