"""Two peer connections of aiortc's in one process, one with a camera, the other with eyes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import av
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpReceiver, RTCRtpSender
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpCodecCapability

from streamgen.bench.link import GOOD, Link, Quality
from tests.support.webrtc import OFFLINE


@dataclass
class Pair:
    """`seen` grows while frames arrive."""

    sender: RTCRtpSender
    receiver: RTCRtpReceiver
    links: list[Link]
    seen: list[av.VideoFrame] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Datagrams, both ways."""
        return sum(link.out.lost for link in self.links)


def codecs(name: str) -> list[RTCRtpCodecCapability]:
    """Preferences: this codec, and repetition in packets of their own."""
    known = RTCRtpSender.getCapabilities("video").codecs
    return [codec for codec in known if codec.mimeType.lower() in (f"video/{name}", "video/rtx")]


@asynccontextmanager
async def pair(
    camera: MediaStreamTrack,
    quality: Quality = GOOD,
    *,
    seed: int = 0,
    codec: str = "vp8",
    rtx: bool = True,
    prepare: Any = lambda sender, receiver: None,
) -> AsyncIterator[Pair]:
    """Connected; `prepare(sender, receiver)` is called before either starts."""
    giver, taker = RTCPeerConnection(OFFLINE), RTCPeerConnection(OFFLINE)
    transceiver = giver.addTransceiver(camera, direction="sendonly")
    wanted = [one for one in codecs(codec) if rtx or one.mimeType.lower() != "video/rtx"]
    transceiver.setCodecPreferences(wanted)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(giver.close)
        stack.push_async_callback(taker.close)
        await giver.setLocalDescription(await giver.createOffer())
        await taker.setRemoteDescription(giver.localDescription)
        receiver = taker.getTransceivers()[0].receiver
        prepare(transceiver.sender, receiver)
        await taker.setLocalDescription(await taker.createAnswer())
        links = [
            await stack.enter_async_context(Link(connection, out=quality, seed=seed + number))
            for number, connection in enumerate((giver, taker))
        ]
        made = Pair(transceiver.sender, receiver, links)
        looking = asyncio.create_task(_look(receiver.track, made.seen))
        stack.push_async_callback(asyncio.wait, [looking])
        stack.callback(looking.cancel)
        await giver.setRemoteDescription(taker.localDescription)
        yield made


async def _look(track: MediaStreamTrack, seen: list[av.VideoFrame]) -> None:
    try:
        while True:
            frame = await track.recv()
            assert isinstance(frame, av.VideoFrame)
            seen.append(frame)
    except MediaStreamError:
        return
