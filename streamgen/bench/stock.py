"""An echo by aiortc alone, as its examples have it: what the media plane is held against. Nothing of it is tuned.

python -m streamgen.bench.stock      the server: one offer as a line of JSON on standard input, the answer on output
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator

import av
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
    VideoStreamTrack,
)
from aiortc.mediastreams import MediaStreamError

from streamgen.bench.barcode import Pixels
from streamgen.errors import ConnectError

NO_SERVERS = RTCConfiguration(iceServers=[])


async def serve() -> None:
    """Echoes the track of one client until standard input ends."""
    loop = asyncio.get_running_loop()
    connection = RTCPeerConnection(NO_SERVERS)

    @connection.on("track")
    def on_track(track: MediaStreamTrack) -> None:
        connection.addTrack(track)

    offer = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    await connection.setRemoteDescription(RTCSessionDescription(offer["sdp"], "offer"))
    await connection.setLocalDescription(await connection.createAnswer())
    sys.stdout.write(json.dumps({"sdp": connection.localDescription.sdp}) + "\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    await connection.close()


class Pictures(VideoStreamTrack):
    """Pictures at the 30 frames a second that aiortc's own track gives."""

    def __init__(self, pictures: Iterator[Pixels]) -> None:
        super().__init__()
        self._pictures = pictures

    async def recv(self) -> av.VideoFrame:
        """Raises MediaStreamError when there are no more."""
        pts, time_base = await self.next_timestamp()
        picture = next(self._pictures, None)
        if picture is None:
            self.stop()
            raise MediaStreamError
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = pts, time_base
        return frame


@contextlib.asynccontextmanager
async def echo(
    pictures: Iterator[Pixels], codec: str, read: Callable[[av.VideoFrame, float], None]
) -> AsyncIterator[int]:
    """Sends `pictures` through a server in a process of its own, whose id it gives; `read` gets each result with the
    time at which it had been decoded (s, monotonic clock). Raises ConnectError where the server does not answer."""
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, stdin=pipe, stdout=pipe)
    connection = RTCPeerConnection(NO_SERVERS)
    tasks: list[asyncio.Task[None]] = []
    connection.on("track", lambda track: tasks.append(asyncio.create_task(_read_all(track, read))))
    try:
        transceiver = connection.addTransceiver(Pictures(pictures))
        offered = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences([it for it in offered if it.mimeType.lower() == f"video/{codec}"])
        await connection.setLocalDescription(await connection.createOffer())
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps({"sdp": connection.localDescription.sdp}).encode() + b"\n")
        line = await server.stdout.readline()
        if not line:
            raise ConnectError("the stock echo did not answer")
        await connection.setRemoteDescription(RTCSessionDescription(json.loads(line)["sdp"], "answer"))
        yield server.pid
    finally:
        await connection.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        await server.wait()


async def _read_all(track: MediaStreamTrack, read: Callable[[av.VideoFrame, float], None]) -> None:
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        if isinstance(frame, av.VideoFrame):
            read(frame, time.monotonic())


if __name__ == "__main__":
    asyncio.run(serve())
