from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aioice import Candidate, ice, stun
from aiortc import RTCIceServer

from streamgen.errors import BusyError
from streamgen.ice import generation as module
from streamgen.ice.generation import MAX_CANDIDATES, Generation, usable
from streamgen.ice.settings import IceSettings
from streamgen.ice.sockets import bind
from tests.support.sockets import no_sockets_left
from tests.support.webrtc import no_leaks, until

Make = Callable[..., Generation]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes generations; nothing may be left of them."""
    made: list[Generation] = []

    def new(*urls: str, controlling: bool = False, **settings: Any) -> Generation:
        servers = [RTCIceServer(url, username="user", credential="secret") for url in urls]
        generation = Generation(
            IceSettings(**settings), servers, lambda _: None, lambda _: None, controlling=controlling
        )
        made.append(generation)
        return generation

    async with no_leaks(), no_sockets_left():
        yield new
        for generation in made:
            await generation.close()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without an address."""
    monkeypatch.setattr(ice, "get_host_addresses", lambda **_: [])


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one address, behind a NAT."""
    monkeypatch.setattr(ice, "get_host_addresses", lambda **_: ["127.0.0.3"])
    monkeypatch.setattr(module, "_behind_nat", lambda _: True)


def hosts(generation: Generation) -> list[str]:
    return [candidate.host for candidate in generation.local_candidates if candidate.type == "host"]


async def test_ports_are_of_the_range(make: Make, single: None) -> None:
    with bind("127.0.0.3", None) as probe:
        port = probe.getsockname()[1]
    generation = make(ports=(port, port))
    await generation.gather_candidates()
    assert [(c.host, c.port) for c in generation.local_candidates] == [("127.0.0.3", port)]


async def test_a_range_that_is_taken_is_said_and_not_waited_for(
    make: Make, single: None, caplog: pytest.LogCaptureFixture
) -> None:
    with bind("127.0.0.3", None) as other:
        port = other.getsockname()[1]
        with pytest.raises(BusyError, match=f"UDP ports {port}-{port} are all taken") as caught:
            await make(ports=(port, port)).gather_candidates()
        assert caught.value.retry_after_s > 0
        assert "--udp-ports" in caplog.text
        # Ports that are taken on one address are no reason to do without the others.
        generation = make(ports=(port, port), loopback=True)
        await generation.gather_candidates()
        assert "127.0.0.1" in hosts(generation)


async def test_loopback_is_offered_where_asked_for(make: Make, single: None) -> None:
    without, with_ = make(), make(loopback=True)
    await without.gather_candidates()
    await with_.gather_candidates()
    assert hosts(without) == ["127.0.0.3"]
    assert hosts(with_)[:2] == ["127.0.0.3", "127.0.0.1"]
    priorities = [candidate.priority for candidate in with_.local_candidates]
    assert priorities == sorted(set(priorities), reverse=True)


async def test_loopback_is_used_where_there_is_nothing_else(make: Make, alone: None) -> None:
    generation = make()
    await generation.gather_candidates()
    assert hosts(generation)[0] == "127.0.0.1"


@pytest.mark.parametrize("scheme", ["stun", "turn"])
async def test_a_server_that_never_answers_is_done_without(make: Make, single: None, scheme: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.setblocking(False)
        generation = make(f"{scheme}:127.0.0.1:{deaf.getsockname()[1]}", gather_timeout_s=0.05)
        await generation.gather_candidates()
        assert deaf.recv(1500)  # it was asked
        assert hosts(generation) == ["127.0.0.3"]


class StunServer(asyncio.DatagramProtocol):
    """Sees every client at 198.51.100.7:40000."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        asked = stun.parse_message(data)
        answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, asked.transaction_id)
        answer.attributes["XOR-MAPPED-ADDRESS"] = ("198.51.100.7", 40000)
        self.transport.sendto(bytes(answer), addr)


async def test_a_stun_server_s_view_is_offered_too(make: Make, single: None) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(StunServer, local_addr=("127.0.0.1", 0))
    generation = make(f"stun:127.0.0.1:{transport.get_extra_info('sockname')[1]}", gather_timeout_s=30.0)
    await generation.gather_candidates()
    transport.close()
    assert [(c.type, c.host) for c in generation.local_candidates] == [
        ("host", "127.0.0.3"),
        ("srflx", "198.51.100.7"),
    ]


async def test_closing_or_cancelling_while_it_gathers_leaves_nothing(make: Make, single: None) -> None:
    with bind("127.0.0.1", None) as deaf:
        url = f"turn:127.0.0.1:{deaf.getsockname()[1]}"
        closed, cancelled = make(url, gather_timeout_s=0.1), make(url, gather_timeout_s=30.0)
        tasks = [asyncio.create_task(generation.gather_candidates()) for generation in (closed, cancelled)]
        await asyncio.sleep(0.02)
        await closed.close()
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], ConnectionError)
        assert isinstance(results[1], asyncio.CancelledError)


async def connected(one: Generation, other: Generation) -> None:
    for here, there in ((one, other), (other, one)):
        await here.gather_candidates()
        here.remote_username, here.remote_password = there.local_username, there.local_password
    for candidate in one.local_candidates:
        await other.add_remote_candidate(candidate)
    await asyncio.gather(one.connect(), other.connect())


async def test_the_end_of_candidates_is_no_failure(make: Make, single: None) -> None:
    """One side knows of no address of the other, and that no more come; the other's checks are enough."""
    one, other = make(controlling=True), make()
    await one.add_remote_candidate(None)
    await connected(one, other)
    assert [candidate.type for candidate in one.remote_candidates] == ["prflx"]


async def test_candidates_past_the_end_and_past_the_limit_are_ignored(make: Make) -> None:
    ended, full = make(), make()
    line = "1 1 udp 1 192.0.2.1 {} typ host"
    await ended.add_remote_candidate(None)
    for port in range(1, 100):
        for generation in (ended, full):
            await generation.add_remote_candidate(Candidate.from_sdp(line.format(port)))
    assert ended.remote_candidates == []
    assert len(full.remote_candidates) == MAX_CANDIDATES


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1 1 udp 1 192.0.2.1 5000 typ host", True),
        ("1 1 UDP 1 2001:db8::1 5000 typ relay raddr 192.0.2.1 rport 9", True),
        ("1 1 udp 1 8e9a0e2b-0f5b-4a3c.local 5000 typ host", False),
        ("1 1 tcp 1 192.0.2.1 9 typ host tcptype active", False),
        ("1 2 udp 1 192.0.2.1 5000 typ host", False),
        ("1 1 udp 1 192.0.2.1 0 typ host", False),
        ("1 1 udp 1 192.0.2.1 70000 typ host", False),
        ("1 1 udp 1 192.0.2.1 5000 typ prflx", False),
        ("1 1 udp 1 224.0.0.1 5000 typ host", False),
        ("1 1 udp 1 0.0.0.0 5000 typ host", False),
        ("1 1 udp 1 255.255.255.255 5000 typ host", False),
    ],
)
def test_what_can_be_sent_to(line: str, expected: bool) -> None:
    assert usable(Candidate.from_sdp(line)) is expected


async def test_a_peer_that_is_gone_is_noticed_and_one_that_is_there_is_not(single: None) -> None:
    lost: list[Generation] = []
    settings = IceSettings(check_interval_s=0.02, silence_s=0.5, consent_s=1.0)
    async with no_leaks(), no_sockets_left():
        one, other = (
            Generation(settings, (), lambda _: None, lost.append, controlling=controlling)
            for controlling in (True, False)
        )
        await connected(one, other)
        await asyncio.sleep(1.5)  # longer than a consent lasts, with nothing sent but checks
        assert lost == []
        await other.close()
        await until(lambda: lost, "the loss")
        assert lost == [one]


async def test_the_other_side_s_checks_show_that_it_is_there(single: None) -> None:
    lost: list[Generation] = []
    listening = IceSettings(check_interval_s=100.0, silence_s=0.5, consent_s=100.0)
    checking = IceSettings(check_interval_s=0.02)
    one, other = (
        Generation(settings, (), lambda _: None, lost.append, controlling=settings is listening)
        for settings in (listening, checking)
    )
    await connected(one, other)
    await asyncio.sleep(1.0)  # twice the silence that would be too long
    assert lost == []
    await one.close()
    await other.close()


@pytest.mark.parametrize("sent", [0, 500])
async def test_a_peer_that_answers_no_checks_is_kept_while_more_comes_from_it_than_goes_to_it(
    single: None, sent: int
) -> None:
    lost: list[Generation] = []
    settings = IceSettings(check_interval_s=0.02, silence_s=1.0, consent_s=0.3)
    one = Generation(settings, (), lambda _: None, lost.append, controlling=True)
    other = Generation(IceSettings(check_interval_s=100.0), (), lambda _: None, lost.append, controlling=False)
    await connected(one, other)
    for protocol in other._protocols:
        protocol.send_stun = lambda message, addr: None  # type: ignore[method-assign]
    for _ in range(40):  # longer than a consent lasts
        await other.send(bytes(100))
        if lost:
            break
        await one.send(bytes(sent or 10))
        await asyncio.sleep(0.02)
    assert lost == ([one] if sent else [])
    await one.close()
    await other.close()


async def test_a_broken_socket_is_noticed_at_once(single: None) -> None:
    lost: list[Generation] = []
    one, other = (
        Generation(IceSettings(), (), lambda _: None, lost.append, controlling=controlling)
        for controlling in (True, False)
    )
    await connected(one, other)
    one._protocols[0].transport.abort()
    await asyncio.sleep(0.01)
    assert lost == [one]
    await one.close()
    await other.close()
