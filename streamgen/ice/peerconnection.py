"""aiortc's peer connection, on such ICE connections."""

from __future__ import annotations

from collections.abc import Sequence

from aiortc import RTCConfiguration, RTCDtlsTransport, RTCIceServer, RTCIceTransport, RTCPeerConnection

from streamgen.errors import IceRestartError
from streamgen.ice.certificate import Certificate
from streamgen.ice.connection import IceConnection, IceDescription, parse_candidate
from streamgen.ice.settings import IceSettings


class PeerConnection(RTCPeerConnection):
    """An RTCPeerConnection that keeps to `settings`, and whose ICE can restart: DTLS, SRTP and SCTP go on over it.

    The side that is asked to restart calls `restart`. The side that asks calls `prepare_restart`, sends what it gives
    to the other side, and calls `begin_restart` with the answer.
    """

    def __init__(self, ice_servers: Sequence[RTCIceServer], settings: IceSettings) -> None:
        """Without servers none is asked, where aiortc would choose a public one."""
        super().__init__(RTCConfiguration(iceServers=list(ice_servers)))
        self._RTCPeerConnection__certificates = [Certificate.generateCertificate()]
        self._ice_servers = ice_servers
        self._ice_settings = settings
        self._ice: dict[RTCIceTransport, IceConnection] = {}

    async def restart(self, remote: IceDescription) -> IceDescription:
        """Restarts ICE as the other side asks: its new generation, in exchange for ours.

        Media flow over the old pair until the new one is found, or for good where none is found within
        `restart_timeout_s`; `restarted` waits for that. Raises IceRestartError where the connection is not up or its
        media do not share one transport, BusyError where no port is free, OfferError for a malformed candidate;
        nothing has changed then. `remote.ufrag` and `pwd` are taken as they are.
        """
        for line in remote.candidates:
            parse_candidate(line)
        ours = await self.prepare_restart()
        await self.begin_restart(remote)
        return ours

    async def prepare_restart(self) -> IceDescription:
        """Our new generation. Raises as `restart`."""
        return await self._only().prepare()

    async def begin_restart(self, remote: IceDescription) -> None:
        """Goes on with the other side's. Raises IceRestartError where none was prepared in time, and OfferError."""
        await self._only().begin(remote)

    async def restarted(self) -> None:
        """Until the restart under way, or the last one, has ended. Raises IceRestartError where it failed."""
        await self._only().restarted()

    async def add_candidate(self, line: str, *, ufrag: str | None = None, mid: str | None = None) -> bool:
        """Takes a trickled candidate of the generation `ufrag`, the newest where None, in the media section `mid`.

        Those to which nothing can be sent, and those past the first 20 of a generation, are left out without a word.
        False where there is no such generation or media section. Raises OfferError for a malformed line.
        """
        candidate = parse_candidate(line)
        connection = self._of(mid)
        return connection is not None and await connection.trickle(candidate, ufrag)

    async def end_of_candidates(self, *, ufrag: str | None = None, mid: str | None = None) -> bool:
        """No more candidates of a generation come; those that do are ignored. False as in `add_candidate`.

        The connection does not fail for it: checks may still come from where nobody told of (RFC 8863).
        """
        connection = self._of(mid)
        return connection is not None and await connection.trickle(None, ufrag)

    def _only(self) -> IceConnection:
        live = self._live()
        if len(live) != 1:
            raise IceRestartError("only an open connection whose media share one transport (BUNDLE) can restart ICE")
        return live[0]

    def _live(self) -> list[IceConnection]:
        """Those that were not bundled into another, nor closed."""
        return [connection for transport, connection in self._ice.items() if transport.state != "closed"]

    def _of(self, mid: str | None) -> IceConnection | None:
        """Of a media section; of the first where None."""
        if mid is None:
            return next(iter(self._live()), None)
        sections: list[tuple[str | None, RTCDtlsTransport]] = [
            (transceiver.mid, transceiver.receiver.transport) for transceiver in self.getTransceivers()
        ]
        if self.sctp is not None:
            sections.append((self.sctp.mid, self.sctp.transport))
        return next((self._ice[transport.transport] for name, transport in sections if name == mid), None)

    def _RTCPeerConnection__createDtlsTransport(self) -> RTCDtlsTransport:  # noqa: N802 - aiortc's own, by its full name
        """Puts our connection where aiortc has just put aioice's, which has not opened anything yet."""
        dtls: RTCDtlsTransport = super()._RTCPeerConnection__createDtlsTransport()  # type: ignore[misc]
        transport = dtls.transport
        stock = transport._connection  # noqa: SLF001
        # All transports of a connection have the same credentials: aiortc has seen to that.
        connection = IceConnection(self._ice_settings, self._ice_servers, stock.local_username, stock.local_password)
        for place in (transport, transport.iceGatherer):
            place._connection = connection  # type: ignore[assignment]  # noqa: SLF001
        transport._recv, transport._send = connection.recv, connection.send  # noqa: SLF001
        self._ice[transport] = connection
        return dtls
