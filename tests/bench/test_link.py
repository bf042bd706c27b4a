import asyncio

import pytest
from aiortc import RTCPeerConnection

from streamgen.bench.link import Link, Quality, Way
from tests.support.pair import pair
from tests.support.webrtc import OFFLINE, Camera, no_leaks, until


def test_the_same_seed_tells_the_same():
    ways = [Way(Quality(0.3, 0.02, 0.005), seed) for seed in (1, 1, 2)]
    first, second, other = ([way.arrival(now) for now in range(50)] for way in ways)
    assert first == second != other


def test_loss_delay_and_jitter_are_what_was_asked_for():
    way = Way(Quality(0.05, delay_s=0.02, jitter_s=0.01), seed=3)
    arrivals = [way.arrival(0) for _ in range(10_000)]
    delays = [arrival for arrival in arrivals if arrival is not None]
    assert len(delays) == way.carried == 10_000 - way.lost
    assert way.lost / 10_000 == pytest.approx(0.05, abs=0.01)
    assert 0.02 <= min(delays) < 0.0201
    assert 0.0299 < max(delays) <= 0.03


@pytest.mark.parametrize("quality", [Quality(), Quality(loss=1.0)])
def test_a_perfect_way_and_none(quality: Quality):
    way = Way(quality, seed=0)
    assert {way.arrival(7) for _ in range(100)} == ({7} if quality.loss == 0 else {None})


class Transport:
    """What an ICE transport has of interest here."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.came: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def _send(self, data: bytes) -> None:
        self.sent.append(data)

    async def _recv(self) -> bytes:
        data = await self.came.get()
        if data is None:
            raise ConnectionError
        return data


class Connection:
    def __init__(self) -> None:
        self.transport = Transport()
        self._RTCPeerConnection__iceTransports = {self.transport}


MEDIA, DATA = b"\x80media", b"\x17data"


@pytest.mark.parametrize("media_only", [True, False])
async def test_what_goes_through_the_link(media_only: bool):
    connection = Connection()
    transport = connection.transport
    nothing = Quality(loss=1.0)
    async with no_leaks(), Link(connection, out=nothing, into=nothing, media_only=media_only) as link:
        reading = asyncio.create_task(transport._recv())
        for data in (MEDIA, DATA, MEDIA):
            await transport._send(data)
            transport.came.put_nowait(data)
        count = 2 if media_only else 3
        await until(lambda: link.into.lost == count)
        assert link.out.lost == count
        assert transport.sent == ([DATA] if media_only else [])
        if media_only:
            assert await reading == DATA
        reading.cancel()
        await asyncio.wait([reading])


async def test_datagrams_that_are_not_late_stay_in_order():
    connection = Connection()
    transport = connection.transport
    datagrams = [bytes([0x80, number]) for number in range(100)]
    some = Quality(delay_s=0.01)
    async with no_leaks(), Link(connection, out=some, into=some):
        for datagram in datagrams:
            await transport._send(datagram)
            transport.came.put_nowait(datagram)
        assert transport.sent == []
        assert [await transport._recv() for _ in datagrams] == datagrams
        await until(lambda: len(transport.sent) == 100)
        assert transport.sent == datagrams


async def test_datagrams_overtake_each_other_where_the_delay_varies():
    connection = Connection()
    transport = connection.transport
    datagrams = [bytes([0x80, number]) for number in range(100)]
    async with no_leaks(), Link(connection, out=Quality(jitter_s=0.05), seed=4):
        for datagram in datagrams:
            await transport._send(datagram)
        await until(lambda: len(transport.sent) == 100)
        assert transport.sent != datagrams
        assert sorted(transport.sent) == datagrams


async def test_after_its_end_all_is_as_it_was():
    connection = Connection()
    transport = connection.transport
    before = transport._send, transport._recv
    async with no_leaks():
        async with Link(connection, out=Quality(loss=1.0), into=Quality(loss=1.0)):
            reading = asyncio.create_task(transport._recv())
            await asyncio.sleep(0)
        assert (transport._send, transport._recv) == before
        transport.came.put_nowait(MEDIA)
        assert await reading == MEDIA  # who was reading through the link reads past it now


async def test_the_end_of_the_connection_is_noticed_through_the_link():
    connection = Connection()
    async with no_leaks(), Link(connection):
        connection.transport.came.put_nowait(None)
        connection.transport.came.put_nowait(None)
        with pytest.raises(ConnectionError):
            await connection.transport._recv()


async def test_this_aiortc_keeps_its_transports_where_we_look():
    connection = RTCPeerConnection(OFFLINE)
    receiver = connection.addTransceiver("video").receiver
    async with Link(connection):
        assert receiver.transport.transport._send.__self__ is not receiver.transport.transport._connection
    await connection.close()


async def test_one_end_can_have_both_directions():
    """For a peer in another process."""
    async with no_leaks(), pair(Camera(fps=60)) as run:
        connection = type("Held", (), {"_RTCPeerConnection__iceTransports": {run.sender.transport.transport}})()
        some = Quality(0.2, delay_s=0.005)
        async with Link(connection, out=some, into=some) as link:
            await until(lambda: link.out.lost > 3 and link.into.carried + link.into.lost > 1)
        seen = len(run.seen)
        await until(lambda: len(run.seen) > seen + 10)
