"""One client's WebRTC connection: answers the offer, carries frames and messages, and frees everything at its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from aiortc import RTCDataChannel, RTCIceServer, RTCSessionDescription
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError
from aiortc.mediastreams import MediaStreamTrack

from streamgen.core import Clock
from streamgen.encoders import encode_live
from streamgen.errors import OfferError
from streamgen.ice import IceSettings, PeerConnection
from streamgen.jitter import release_on_marker
from streamgen.rtc.control import Control, Outgoing
from streamgen.rtc.hints import with_bitrates
from streamgen.rtc.intake import Intake
from streamgen.rtc.offer import Offer
from streamgen.rtc.tracks import OutputTrack
from streamgen.session import Session
from streamgen.wire import Closing

logger = logging.getLogger(__name__)

STATS_INTERVAL_S = 1.0
FLUSH_TIMEOUT_S = 0.5
"""A client gets this long to take the last messages."""

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


class Peer:
    """The connection of one session. `answer` once, then `run` once; `run` ends when the session has ended."""

    def __init__(
        self,
        session: Session,
        outgoing: Outgoing,
        clock: Clock,
        *,
        ice_servers: Sequence[str],
        ice: IceSettings,
        connect_timeout_s: float,
        idle_timeout_s: float,
    ) -> None:
        self._session = session
        self._outgoing = outgoing
        self._clock = clock
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._control = Control(session, outgoing)
        self._output = OutputTrack(session, clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._connection = PeerConnection([RTCIceServer(urls=url) for url in ice_servers], ice)
        self._connection.on("connectionstatechange", self._connection_changed)
        self._connection.on("datachannel", self._channel_opened)

    async def answer(self, offer: Offer) -> str:
        """The SDP answer. Raises OfferError where there is no common ground; then nothing is left of the peer."""
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._negotiate(offer)
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

    async def run(self) -> None:
        """Until the session has ended: by its client, a timeout, a failure, or `Session.end`. Frees everything."""
        self._spawn(self._watch(), "peer-watch")
        try:
            await self._session.ended.wait()
            self._outgoing(Closing(self._session.end_reason))
            await self._outgoing.flush(FLUSH_TIMEOUT_S)
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends the connection and all that belongs to it."""
        self._output.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.close()

    async def _negotiate(self, offer: Offer) -> str:
        connection = self._connection
        await connection.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
        for transceiver in connection.getTransceivers():
            takes, gives = transceiver.mid == offer.source, transceiver.mid == offer.sink
            transceiver.direction = _DIRECTIONS[takes, gives]
            if gives:
                transceiver.sender.replaceTrack(self._output)
                encode_live(transceiver, lambda: self._session.params.fps)
            if takes:
                release_on_marker(transceiver.receiver)
                track = transceiver.receiver.track
                self._spawn(self._take(track), "peer-take")
        await connection.setLocalDescription(await connection.createAnswer())
        return with_bitrates(connection.localDescription.sdp)

    async def _take(self, track: MediaStreamTrack) -> None:
        await Intake(track, self._session, self._clock).run()
        self._session.end("the client stopped sending")

    async def _watch(self) -> None:
        """Ends the session where its connection does not come up or its frames stay away; else sends statistics."""
        session, began = self._session, self._clock.now()
        while True:
            await asyncio.sleep(min(STATS_INTERVAL_S, self._connect_timeout_s / 4, self._idle_timeout_s / 4))
            now = self._clock.now()
            if session.state == "connecting":
                if now - began > self._connect_timeout_s:
                    session.end("the media connection did not come up")
            elif session.state != "paused" and now - session.last_frame_at > self._idle_timeout_s:
                session.end("no frames came any more")
            self._outgoing(session.stats())

    def _connection_changed(self) -> None:
        state = self._connection.connectionState
        if state == "connected":
            self._session.connected()
        elif state in ("failed", "closed"):
            self._session.end("the connection was lost" if state == "failed" else "the client closed the connection")

    def _channel_opened(self, channel: RTCDataChannel) -> None:
        self._control.attach(channel)

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        task.add_done_callback(self._task_done)
        self._tasks.add(task)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s failed", task.get_name(), exc_info=error)  # our own bug: it costs this session only
            self._session.end("internal error")


_DIRECTIONS = {  # of a transceiver, by whether the service takes and gives video there
    (True, True): "sendrecv",
    (True, False): "recvonly",
    (False, True): "sendonly",
    (False, False): "inactive",
}
