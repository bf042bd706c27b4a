"""Somebody who watches a session: takes its results, and sends nothing."""

from __future__ import annotations

from aiortc import RTCRtpTransceiver

from streamgen.rtc.broadcast import Broadcast
from streamgen.rtc.connection import DIRECTIONS, Connection
from streamgen.rtc.offer import Offer
from streamgen.rtc.sound import Sound


class Viewer:
    """The connection of one viewer. `answer` once, then `run` once; `close` ends it from outside."""

    def __init__(self, broadcast: Broadcast, sound: Sound, connection: Connection) -> None:
        self._broadcast = broadcast
        self._sound = sound
        self.connection = connection

    async def answer(self, offer: Offer) -> str:
        """The SDP answer. Raises OfferError; then nothing is left of the viewer."""

        def set_up(transceiver: RTCRtpTransceiver) -> None:
            transceiver.direction = DIRECTIONS[False, transceiver.mid in (offer.sink, offer.audio_sink)]
            self.connection.give(offer, self._broadcast, self._sound, transceiver)

        return await self.connection.answer(offer, set_up)

    async def run(self) -> None:
        """Until the viewer, or what it watches, is gone. Frees everything."""
        try:
            await self.connection.gone.wait()
        finally:
            await self.connection.close()
