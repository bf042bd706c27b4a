"""The WebRTC connection of one session, from the client's side: one video line both ways, one control channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiortc import (
    MediaStreamTrack,
    RTCIceServer,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError

from streamgen.client.control import CHANNEL
from streamgen.encoders import encode_live
from streamgen.errors import ConnectError
from streamgen.feedback import limit_key_frames, limit_retransmissions
from streamgen.ice import IceSettings, PeerConnection
from streamgen.recovery import recover_losses

CODECS = ("h264", "vp8")

FPS = 30.0
"""Frames a second that a source is taken to have at most."""

SILENCE_S = 5.0
"""A service of which nothing at all came for this long is taken for lost (s). It sends statistics every second; where
it is there after all, the session goes on where it was."""

SDP_ERRORS = (
    # what aiortc's parser raises, which asserts and indexes where a line is broken
    *(ValueError, KeyError, IndexError, AssertionError),
    *(InvalidAccessError, InvalidStateError, OperationError),
)


class Peer:
    """Sends `track`; what comes back is handed to `on_track`. `on_lost(error)` is called once if the connection ends
    by itself after it was up. `losses` counts what the network lost of it; None where this aiortc cannot tell."""

    def __init__(
        self, track: MediaStreamTrack, ice_servers: Sequence[str], codec: str = "", *, loopback: bool = False
    ) -> None:
        """codec: one of CODECS, offered alone; all are where it is empty. loopback: whether the service is on this
        machine, so that loopback addresses are of use. Raises ConnectError for another codec."""
        if codec and codec not in CODECS:
            raise ConnectError(f"codec must be one of {', '.join(CODECS)}, not {codec!r}")
        servers = [RTCIceServer(urls=url) for url in ice_servers]
        self._pc = PeerConnection(servers, IceSettings(loopback=loopback, silence_s=SILENCE_S))
        self.channel = self._pc.createDataChannel(CHANNEL)
        self._transceiver = self._pc.addTransceiver(track, direction="sendrecv")
        if codec:
            self._transceiver.setCodecPreferences(
                [it for it in RTCRtpSender.getCapabilities("video").codecs if it.mimeType.lower() == f"video/{codec}"]
            )
        self.losses = recover_losses(self._transceiver.receiver)
        limit_key_frames(self._transceiver.sender)
        limit_retransmissions(self._transceiver.sender)
        self._changed = asyncio.Event()
        self._pc.on("connectionstatechange", self._changed.set)
        self.channel.on("open", self._changed.set)

    @property
    def rtc(self) -> PeerConnection:
        """The connection itself."""
        return self._pc

    async def offer(self) -> str:
        """SDP with all candidates. Raises ConnectError where no socket can be opened on any address."""
        await self._pc.setLocalDescription(await self._pc.createOffer())
        sdp = self._pc.localDescription.sdp
        if "a=candidate:" not in sdp:
            raise ConnectError("no UDP socket can be opened on any address of this machine, not even loopback")
        return sdp

    async def accept(self, sdp: str) -> MediaStreamTrack:
        """Takes the service's answer; the track on which results come. Raises ConnectError."""
        try:
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        except SDP_ERRORS as error:
            why = str(error) or type(error).__name__
            raise ConnectError(f"the service's answer cannot be used: {why}") from None
        encode_live(self._transceiver, lambda: FPS)
        if self._transceiver.currentDirection != "sendrecv":
            raise ConnectError("the service's answer cannot be used: it does not send video back")
        return self._transceiver.receiver.track

    async def connected(self, timeout_s: float) -> None:
        """Waits until media and control channel are up. Raises ConnectError."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._pc.connectionState != "connected" or self.channel.readyState != "open":
                    if self._pc.connectionState in ("failed", "closed"):
                        raise ConnectError("the media connection failed; is UDP to the service blocked?")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise ConnectError(
                f"the media connection was not up within {timeout_s:g} s; is UDP to the service blocked?"
            ) from None

    def watch(self, on_lost: Callable[[ConnectError], None]) -> None:
        """Calls `on_lost` when the connection ends without `close`."""

        def check() -> None:
            match self._pc.connectionState:
                case "closed":
                    on_lost(ConnectError("the service closed the connection"))
                case "failed":
                    on_lost(ConnectError("the connection to the service was lost"))

        self._pc.on("connectionstatechange", check)
        check()

    async def close(self) -> None:
        """Ends the connection; may be called more than once."""
        await self._pc.close()
