"""The connection of a session's own client: frames and sound in, results out, messages both ways."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from aiortc import RTCDataChannel, RTCRtpTransceiver
from aiortc.mediastreams import MediaStreamTrack

from streamgen.core import Clock
from streamgen.jitter import Losses
from streamgen.recovery import recover_losses
from streamgen.rtc.broadcast import Broadcast
from streamgen.rtc.connection import DIRECTIONS, Connection
from streamgen.rtc.control import Control, Outgoing
from streamgen.rtc.hints import with_bitrates
from streamgen.rtc.intake import Intake
from streamgen.rtc.offer import Offer
from streamgen.rtc.sound import Sound
from streamgen.session import Session

STATS_INTERVAL_S = 1.0
FLUSH_TIMEOUT_S = 0.5
"""A client gets this long to take the last messages."""


class Peer:
    """Answers an offer of the session's client; `connection.gone` says when it is over, `close` frees everything.

    A session has one after the other: a client that lost its connection comes back with another.
    """

    def __init__(
        self,
        session: Session,
        broadcast: Broadcast,
        sound: Sound,
        outgoing: Outgoing,
        connection: Connection,
        clock: Clock,
        *,
        idle_timeout_s: float,
    ) -> None:
        self.connection = connection
        self._session = session
        self._broadcast = broadcast
        self._sound = sound
        self._outgoing = outgoing
        self._clock = clock
        self._idle_timeout_s = idle_timeout_s
        self._control = Control(session, outgoing)
        self._losses: Losses | None = None

    async def answer(self, offer: Offer) -> str:
        """The SDP answer. Raises OfferError where there is no common ground; then nothing is left of the peer."""
        connection = self.connection
        connection.rtc.on("datachannel", self._channel_opened)

        def set_up(transceiver: RTCRtpTransceiver) -> None:
            mid = transceiver.mid
            takes, gives = mid in (offer.source, offer.audio_source), mid in (offer.sink, offer.audio_sink)
            transceiver.direction = DIRECTIONS[takes, gives]
            connection.give(offer, self._broadcast, self._sound, transceiver)
            if mid == offer.source:
                self._losses = recover_losses(transceiver.receiver)
                connection.spawn(self._take(transceiver.receiver.track), "peer-take")
            if mid == offer.audio_source:
                connection.spawn(self._sound.take(transceiver.receiver.track), "peer-sound")

        sdp = await connection.answer(offer, set_up)
        connection.spawn(self._watch(), "peer-watch")
        return with_bitrates(sdp, self._session.params.max_kbps)

    async def close(self) -> None:
        """Sends what is still to be said, and ends the connection."""
        await self._outgoing.flush(FLUSH_TIMEOUT_S)
        await self.connection.close()

    async def _take(self, track: MediaStreamTrack) -> None:
        await Intake(track, self._session, self._clock).run()
        self.connection.end("the client stopped sending")

    async def _watch(self) -> None:
        """Once it is connected: ends it where frames stay away, and sends statistics."""
        await self.connection.connected.wait()
        session = self._session
        session.connected()
        while True:
            await asyncio.sleep(min(STATS_INTERVAL_S, self._idle_timeout_s / 4))
            sends = session.state not in ("paused", "queued")
            if sends and self._clock.now() - session.last_frame_at > self._idle_timeout_s:
                self.connection.end("no frames came any more")
            self._outgoing(replace(session.stats(), network=self._network()))

    def _network(self) -> dict[str, int]:
        """What became of the client's packets on their way here; empty where this aiortc cannot tell."""
        losses = self._losses
        if losses is None:
            return {}
        return {
            "packets": losses.packets,
            "missing": losses.missing,
            "recovered": losses.recovered,
            "key_frame_requests": losses.key_frame_requests,
        }

    def _channel_opened(self, channel: RTCDataChannel) -> None:
        self._control.attach(channel)
