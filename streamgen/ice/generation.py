"""One generation of an ICE connection (RFC 8445, section 9): a pair of credentials, its sockets, its checks."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
from collections.abc import Callable, Sequence

from aioice import Candidate, Connection, ice, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol
from aiortc import RTCIceServer
from aiortc.rtcicetransport import connection_kwargs

from streamgen.errors import BusyError
from streamgen.ice.consent import Check, Consent
from streamgen.ice.settings import IceSettings
from streamgen.ice.sockets import bind

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1")
COMPONENT = 1
"""RTP and RTCP share the one there is."""
HIGHEST_PREFERENCE = 65535
MAX_CANDIDATES = 20
"""Of the other side: each costs checks, sent to wherever it says."""
RETRY_PORTS_S = 5


class Generation(Connection):
    """Hands datagrams to `received`. Calls `lost(self)` once its pair is of no use any more; not at `close`.

    That no pair known so far works is no failure, even where the other side has no more candidates: its checks may
    still come, from addresses that it does not know of itself (RFC 8863). So `connect` ends with a pair or `close`;
    the time is its caller's to set.
    """

    def __init__(
        self,
        settings: IceSettings,
        servers: Sequence[RTCIceServer],
        received: Callable[[bytes], None],
        lost: Callable[[Generation], None],
        *,
        controlling: bool,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        """`username` and `password` are random where not given."""
        super().__init__(
            controlling, local_username=username, local_password=password, **connection_kwargs(list(servers))
        )
        self._settings = settings
        self._received = received
        self._lost = lost
        self._consent: Consent | None = None
        self._remote_ended = False

    async def gather_candidates(self) -> None:
        """Opens the sockets, and asks the STUN and TURN servers for their view of them.

        Raises BusyError where every port of the range is taken, ConnectionError where it is closed meanwhile.
        """
        if self._local_candidates_start:
            return
        self._local_candidates_start = True
        hosts = await self._open_sockets()
        candidates = [protocol.local_candidate for protocol in hosts] + await self._ask_servers(hosts)
        if self._closing:  # close() may not have seen the newest of them
            for protocol in self._protocols:
                await protocol.close()
            raise ConnectionError("closed while addresses were gathered")
        self._local_candidates = candidates
        self._local_candidates_end = True

    async def add_remote_candidate(self, remote_candidate: Candidate | None) -> None:
        """Takes one to which packets can be sent; ignores others, and those above the limit. None: no more come."""
        if remote_candidate is None:
            self._remote_ended = True
        elif self._remote_ended or len(self._remote_candidates) >= MAX_CANDIDATES or not usable(remote_candidate):
            logger.info("%r ignores %r", self, remote_candidate)
        else:
            await super().add_remote_candidate(remote_candidate)

    async def query_consent(self) -> None:
        """Checks that the other side is there and consents, until it does not; then closes."""
        now = asyncio.get_running_loop().time
        assert self.remote_password is not None
        key = self.remote_password.encode()
        consent = self._consent = Consent(self._settings, now())
        while now() < consent.expires:
            await asyncio.sleep(max(0.0, consent.next_event - now()))
            pair = self._nominated[COMPONENT]
            if consent.due(now()):
                request = self.build_request(pair, nominate=False)
                consent.send(pair, Check(request, pair, key, lambda: consent.granted(now())))
        logger.info("%r lost the other side", self)
        self._query_consent_task = None  # close() would wait for this very task
        await self.close()
        self._lost(self)

    def check_incoming(self, message: stun.Message, addr: tuple[str, int], protocol: StunProtocol) -> None:
        """A valid check of the other side."""
        self._heard()
        super().check_incoming(message, addr, protocol)

    def data_received(self, data: bytes, component: int) -> None:
        """A datagram that is not STUN."""
        self._heard(len(data))
        self._received(data)

    async def sendto(self, data: bytes, component: int) -> None:
        """Sends a datagram. Raises ConnectionError before there is a pair."""
        await super().sendto(data, component)
        if self._consent is not None:
            self._consent.sent(len(data))

    def protocol_lost(self, protocol: StunProtocol) -> None:
        """A socket, or an allocation on a TURN server, broke."""
        if any(pair.protocol is protocol for pair in self._nominated.values()):
            self._lost(self)

    def _heard(self, size: int = 0) -> None:
        if self._consent is not None:
            self._consent.heard(asyncio.get_running_loop().time(), size)

    async def _open_sockets(self) -> list[StunProtocol]:
        addresses = ice.get_host_addresses(use_ipv4=True, use_ipv6=True)
        if self._settings.loopback or not addresses:
            addresses = [*addresses, *LOOPBACK]
        hosts, taken = [], False
        for preference, address in enumerate(addresses):
            try:
                hosts.append(await self._open_socket(address, HIGHEST_PREFERENCE - preference))
            except OSError as error:
                taken = taken or error.errno == errno.EADDRINUSE
                logger.info("no socket on %s: %s", address, error.strerror)
        if taken:
            assert self._settings.ports is not None
            first, last = self._settings.ports
            logger.warning("UDP ports %d-%d are all taken; give more with --udp-ports", first, last)
            if not hosts:
                raise BusyError(f"UDP ports {first}-{last} are all taken; try again later", RETRY_PORTS_S)
        return hosts

    async def _open_socket(self, address: str, preference: int) -> StunProtocol:
        """Raises OSError."""
        sock = bind(address, self._settings.ports)
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(lambda: StunProtocol(self), sock=sock)
        self._protocols.append(protocol)
        host, port = sock.getsockname()[:2]
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=COMPONENT,
            transport="udp",
            priority=candidate_priority(COMPONENT, "host", preference),
            host=host,
            port=port,
            type="host",
        )
        return protocol

    async def _ask_servers(self, hosts: Sequence[StunProtocol]) -> list[Candidate]:
        """Candidates from the servers that answer in time."""
        asked: list[asyncio.Task[tuple[Candidate, StunProtocol | None]]] = []
        if self.stun_server is not None:
            asked += [
                asyncio.create_task(ice.server_reflexive_candidate(host, self.stun_server))
                for host in hosts
                if _behind_nat(host.local_candidate.host)
            ]
        if self.turn_server is not None:
            asked.append(asyncio.create_task(self._relay(self.turn_server)))
        if not asked:
            return []
        try:
            await asyncio.wait(asked, timeout=self._settings.gather_timeout_s)
        finally:
            for task in asked:
                task.cancel()
            answers = await asyncio.gather(*asked, return_exceptions=True)
            arrived = [answer for answer in answers if not isinstance(answer, BaseException)]
            self._protocols += [relay for _, relay in arrived if relay is not None]
        if len(arrived) < len(asked):
            logger.info("%d of %d STUN and TURN requests had no answer", len(asked) - len(arrived), len(asked))
        return [candidate for candidate, _ in arrived]

    async def _relay(self, server: tuple[str, int]) -> tuple[Candidate, StunProtocol]:
        return await ice.relayed_candidate(
            component=COMPONENT,
            hide_related_address=False,
            protocol_factory=lambda: StunProtocol(self),
            turn_server=server,
            turn_username=self.turn_username,
            turn_password=self.turn_password,
            turn_ssl=self.turn_ssl,
            turn_transport=self.turn_transport,
        )


def usable(candidate: Candidate) -> bool:
    """Whether packets can be sent to a candidate of the other side.

    Not to a `.local` name: resolving it takes longer than the other side's own checks, which show its address.
    """
    try:
        address = ipaddress.ip_address(candidate.host)
    except ValueError:
        return False
    return (
        candidate.component == COMPONENT
        and candidate.transport.lower() == "udp"
        and candidate.type in ("host", "srflx", "relay")
        and 0 < candidate.port < 65536
        and not (address.is_multicast or address.is_unspecified or candidate.host == "255.255.255.255")
    )


def _behind_nat(host: str) -> bool:
    """Whether a STUN server may see another address than this one. aioice asks over IPv4 alone."""
    address = ipaddress.ip_address(host)
    return address.version == 4 and not address.is_loopback
