"""A WebRTC connection to somebody, from the service's side: answers an offer, and frees everything at its end."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aiortc import RTCIceServer, RTCRtpTransceiver, RTCSessionDescription
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError

from streamgen.encoders import codec_of
from streamgen.errors import OfferError
from streamgen.ice import MAX_CANDIDATES, IceDescription, IceSettings, PeerConnection
from streamgen.rtc.broadcast import Broadcast
from streamgen.rtc.encoding import Seat, send_from
from streamgen.rtc.fragment import Fragment, fragment
from streamgen.rtc.offer import Offer
from streamgen.rtc.profiles import Profiles
from streamgen.rtc.sound import Sound, SoundTrack
from streamgen.rtc.ssrcs import limit_sources
from streamgen.turn import IceServer

logger = logging.getLogger(__name__)
CLOSE_TIMEOUT_S = 5.0

DIRECTIONS = {  # of a transceiver, by whether the service takes and gives something there
    (True, True): "sendrecv",
    (True, False): "recvonly",
    (False, True): "sendonly",
    (False, False): "inactive",
}

# What aiortc raises at an offer that it cannot negotiate.
_NEGOTIATION_FAULTS = (
    InternalError,
    InvalidAccessError,
    InvalidStateError,
    OperationError,
    ValueError,
    AttributeError,
    KeyError,
    TypeError,
)


class Connection:
    """An RTCPeerConnection with an owner: `answer` once, `close` at the end.

    new -> connected -> gone      `gone` is set once, with the reason, by whoever found that out first
    """

    def __init__(self, ice_servers: Sequence[IceServer], ice: IceSettings, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._seats: list[Seat] = []
        self._sounds: list[SoundTrack] = []
        self._tasks: set[asyncio.Task[None]] = set()
        servers = [RTCIceServer(server.urls, server.username, server.credential) for server in ice_servers]
        self.rtc = PeerConnection(servers, ice)
        self.rtc.on("connectionstatechange", self._changed)
        self.connected = asyncio.Event()
        self.gone = asyncio.Event()
        self.reason = ""
        """Why it is gone."""
        self.tag = secrets.token_urlsafe(8)
        """Of the present generation of ICE."""
        self._remote_user = self._mid = ""
        self._trickled = 0
        self.lost = False
        """Whether it went without a word: the other side may come back."""

    async def answer(self, offer: Offer, set_up: Callable[[RTCRtpTransceiver], None]) -> str:
        """The SDP answer; `set_up` decides what becomes of each transceiver.

        Raises OfferError where there is no common ground; then nothing is left of the connection.
        """
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                sdp = await self._negotiate(offer, set_up)
        except _NEGOTIATION_FAULTS as error:
            logger.info("offer refused: %s", error)
            await self.close()
            raise OfferError("the offer cannot be answered: no common codec (H264 or VP8), or not WebRTC") from None
        except TimeoutError:
            await self.close()
            raise OfferError("gathering addresses took too long; check --ice-server") from None
        except BaseException:
            await self.close()
            raise
        self._remote_user, self._mid = offer.ice_user, offer.mid
        self.spawn(self._expect(), "connection-deadline")
        return sdp

    async def patch(self, text: str) -> str | None:
        """Takes what a fragment of SDP says about the other side's ICE: more candidates; or new credentials, with which
        ICE begins anew while media go on as before. Gives the fragment that answers these, else None.

        Raises OfferError for what is no such fragment, IceRestartError and BusyError where ICE cannot begin anew.
        """
        said = Fragment.parse(text)
        if said.user and said.user != self._remote_user:
            return await self._restart(said)
        self._trickled += len(said.candidates)
        if self._trickled > MAX_CANDIDATES:
            raise OfferError(f"more than {MAX_CANDIDATES} candidates were sent")
        for candidate in said.candidates:
            await self.rtc.add_candidate(candidate.line, ufrag=self._remote_user, mid=candidate.mid or self._mid)
        if said.complete:
            await self.rtc.end_of_candidates(ufrag=self._remote_user)
        return None

    async def _restart(self, said: Fragment) -> str:
        if not said.password:
            raise OfferError("the fragment has a new ice-ufrag and no ice-pwd")
        lines = tuple(candidate.line for candidate in said.candidates)
        ours = await self.rtc.restart(IceDescription(said.user, said.password, lines))
        self._remote_user, self._trickled = said.user, len(lines)
        self.tag = secrets.token_urlsafe(8)
        return fragment(ours.ufrag, ours.pwd, self._mid, ours.candidates)

    async def _negotiate(self, offer: Offer, set_up: Callable[[RTCRtpTransceiver], None]) -> str:
        profiles = Profiles.of(offer.sdp)
        await self.rtc.setRemoteDescription(RTCSessionDescription(profiles.sdp, "offer"))
        for transceiver in self.rtc.getTransceivers():
            set_up(transceiver)
        for transport in {transceiver.receiver.transport for transceiver in self.rtc.getTransceivers()}:
            limit_sources(transport)
        await self.rtc.setLocalDescription(await self.rtc.createAnswer())
        return profiles.restore(self.rtc.localDescription.sdp)

    def give(self, offer: Offer, broadcast: Broadcast, sound: Sound, transceiver: RTCRtpTransceiver) -> None:
        """Sends on a transceiver what the offer takes there of a session: its results, its sound, or neither.

        Raises OfferError for a codec that cannot be encoded.
        """
        if transceiver.mid == offer.sink:
            self._send(broadcast, transceiver)
        if transceiver.mid == offer.audio_sink:
            track = sound.listener()
            transceiver.sender.replaceTrack(track)
            self._sounds.append(track)

    def _send(self, broadcast: Broadcast, transceiver: RTCRtpTransceiver) -> None:
        seat = broadcast.seat(codec_of(transceiver))
        if seat is None or not send_from(seat, transceiver):
            raise OfferError("the offer cannot be answered: no common codec (H264 or VP8)")
        self._seats.append(seat)

    def end(self, reason: str, *, lost: bool = False) -> None:
        """It is over; the first reason counts."""
        if not self.gone.is_set():
            self.reason, self.lost = reason, lost
            self.gone.set()

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Runs a task that ends with the connection at the latest."""
        task = asyncio.create_task(coroutine, name=name)
        task.add_done_callback(self._task_done)
        self._tasks.add(task)

    async def close(self) -> None:
        """Ends the connection and all that belongs to it."""
        self.end("closed")
        for seat in self._seats:
            seat.leave()
        for sound in self._sounds:
            sound.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.rtc.close()
        except TimeoutError:  # aiortc waits for tasks of its own, which an odd packet may have ended
            logger.error("a connection could not be closed in order")

    async def _expect(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self.connected.wait()
        except TimeoutError:
            self.end("the media connection did not come up")

    def _changed(self) -> None:
        match self.rtc.connectionState:
            case "connected":
                self.connected.set()
            case "failed":
                self.end("the connection was lost", lost=self.connected.is_set())
            case "closed":
                self.end("the client closed the connection")

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s failed", task.get_name(), exc_info=error)  # our own bug: it costs this connection only
            self.end("internal error")
