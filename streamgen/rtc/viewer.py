"""Somebody who watches a session: takes its results, and sends nothing."""

from __future__ import annotations

from aiortc import RTCRtpTransceiver

from streamgen.rtc.broadcast import Broadcast
from streamgen.rtc.connection import Connection
from streamgen.rtc.offer import Offer


class Viewer:
    """The connection of one viewer. `answer` once, then `run` once; `close` ends it from outside."""

    def __init__(self, broadcast: Broadcast, connection: Connection) -> None:
        self._broadcast = broadcast
        self.connection = connection

    async def answer(self, offer: Offer) -> str:
        """The SDP answer. Raises OfferError; then nothing is left of the viewer."""

        def set_up(transceiver: RTCRtpTransceiver) -> None:
            takes = transceiver.mid == offer.sink
            transceiver.direction = "sendonly" if takes else "inactive"
            if takes:
                self.connection.send(self._broadcast, transceiver)

        return await self.connection.answer(offer, set_up)

    async def run(self) -> None:
        """Until the viewer, or what it watches, is gone. Frees everything."""
        try:
            await self.connection.gone.wait()
        finally:
            await self.connection.close()
