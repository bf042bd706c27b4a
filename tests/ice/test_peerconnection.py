from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self

import pytest
from aioice import ice
from aiortc import RTCDataChannel, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from streamgen.errors import BusyError, IceRestartError, OfferError
from streamgen.ice import IceDescription, IceSettings, PeerConnection
from streamgen.ice.connection import QUEUED_PACKETS, IceConnection
from streamgen.ice.sockets import bind
from tests.support.sockets import no_sockets_left, open_sockets
from tests.support.webrtc import Camera, no_leaks, until

QUICK = IceSettings(loopback=True, linger_s=0.05)
NOBODY = IceDescription("nobody", "p" * 22)
"""A generation whose checks never come."""


class Pair:
    """Two connections: `asker` sends video and counts up over a channel, `asked` takes both and echoes the numbers."""

    def __init__(self, asker: IceSettings = QUICK, asked: IceSettings = QUICK) -> None:
        self.asker, self.asked = PeerConnection((), asker), PeerConnection((), asked)
        self.camera = Camera(fps=60)
        self.frames = 0
        self.echoes: list[int] = []
        self.states: set[str] = set()
        self._number = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.channel = self.asker.createDataChannel("numbers")
        self.channel.on("message", lambda text: self.echoes.append(int(text)))
        self.asker.addTransceiver(self.camera, direction="sendonly")
        self.asked.on("track", lambda track: self._tasks.append(asyncio.create_task(self._read(track))))
        self.asked.on("datachannel", self._echo)
        for connection in (self.asker, self.asked):
            connection.on("connectionstatechange", lambda it=connection: self.states.add(it.connectionState))

    async def connect(self) -> Self:
        await self.asker.setLocalDescription(await self.asker.createOffer())
        await self.asked.setRemoteDescription(self.asker.localDescription)
        await self.asked.setLocalDescription(await self.asked.createAnswer())
        await self.asker.setRemoteDescription(self.asked.localDescription)
        await self.flows()
        return self

    async def flows(self) -> None:
        """Waits for more frames on the one side and more echoes on the other."""
        await until(lambda: self.channel.readyState == "open", "the channel")
        frames = self.frames
        self._number += 1
        self.channel.send(str(self._number))
        await until(lambda: self.frames > frames + 3 and self._number in self.echoes, "traffic")

    async def restart(self) -> None:
        """As over HTTP: one asks, the other answers."""
        await self.asker.begin_restart(await self.asked.restart(await self.asker.prepare_restart()))

    async def close(self) -> None:
        await self.asker.close()
        await self.asked.close()
        self.camera.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _echo(self, channel: RTCDataChannel) -> None:
        channel.on("message", channel.send)

    async def _read(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                await track.recv()
                self.frames += 1
        except MediaStreamError:
            return


@asynccontextmanager
async def pair(**settings: Any) -> AsyncIterator[Pair]:
    async with no_leaks(), no_sockets_left():
        made = Pair(**settings)
        try:
            yield await made.connect()
        finally:
            await made.close()


def current(connection: PeerConnection) -> Any:
    (live,) = connection._live()
    return live._current


async def lose(connection: PeerConnection) -> None:
    """What happens when the other side was not heard for too long."""
    generation = current(connection)
    await generation.close()
    generation._lost(generation)


async def test_this_aiortc_makes_its_transports_where_we_look() -> None:
    async with pair() as both:
        for connection in (both.asker, both.asked):
            transport = connection.sctp.transport.transport
            assert isinstance(transport._connection, IceConnection)
            assert transport.iceGatherer._connection is transport._connection
            assert transport._send.__self__ is transport._recv.__self__ is transport._connection


@pytest.mark.parametrize("times", [1, 3])
async def test_everything_goes_on_over_a_restart_and_the_old_sockets_are_closed(times: int) -> None:
    async with pair() as both:
        sockets = len(open_sockets())
        old = current(both.asked)
        for _ in range(times):
            await both.restart()
            await both.flows()  # over the old pair or the new one
            await both.asked.restarted()
            await both.asker.restarted()
            await both.flows()
        await until(lambda: len(open_sockets()) == sockets, "closing")
        assert current(both.asked) is not old
        assert current(both.asked).local_username != old.local_username
        assert both.states == {"connecting", "connected"}


async def test_a_restart_that_leads_nowhere_leaves_the_old_pair_in_use() -> None:
    async with pair(asked=replace(QUICK, restart_timeout_s=0.2)) as both:
        sockets = open_sockets()
        await both.asked.restart(NOBODY)
        assert open_sockets() > sockets
        with pytest.raises(IceRestartError, match="stay in use"):
            await both.asked.restarted()
        await until(lambda: open_sockets() == sockets, "closing")
        await both.flows()
        assert both.states == {"connecting", "connected"}
        with pytest.raises(IceRestartError, match="no restart"):
            await both.asked.begin_restart(NOBODY)


async def test_a_newer_restart_takes_the_place_of_one_that_hangs() -> None:
    async with pair() as both:
        await both.asked.restart(NOBODY)
        waiting = asyncio.create_task(both.asked.restarted())
        await asyncio.sleep(0)
        await both.restart()
        with pytest.raises(IceRestartError, match="given up"):
            await waiting
        await both.asked.restarted()
        await both.flows()


async def test_a_connection_that_lost_its_pair_is_saved_by_a_restart() -> None:
    async with pair() as both:
        ours = await both.asked.restart(theirs := await both.asker.prepare_restart())
        assert theirs.ufrag != ours.ufrag
        await lose(both.asked)
        await lose(both.asker)
        await both.asker.begin_restart(ours)
        await both.asked.restarted()
        await both.flows()
        assert both.states == {"connecting", "connected"}


async def test_a_connection_that_lost_its_pair_fails_with_its_last_hope() -> None:
    async with pair(asked=replace(QUICK, restart_timeout_s=0.2)) as both:
        await both.asked.restart(NOBODY)
        await lose(both.asked)
        assert both.asked.connectionState == "connected"
        await until(lambda: both.asked.connectionState in ("failed", "closed"), "the end")


async def test_a_lost_pair_ends_a_connection_that_does_not_restart() -> None:
    async with pair() as both:
        await lose(both.asked)
        await until(lambda: both.asked.connectionState in ("failed", "closed"), "the end")
        with pytest.raises(IceRestartError):
            await both.asked.restart(NOBODY)


async def test_closing_in_the_middle_of_a_restart_leaves_nothing() -> None:
    async with pair() as both:
        await both.asked.restart(NOBODY)
        await both.asker.prepare_restart()


async def test_candidates_that_come_later_reach_their_generation() -> None:
    async with pair() as both:
        before = current(both.asked)
        theirs = await both.asker.prepare_restart()
        ours = await both.asked.restart(replace(theirs, candidates=()))
        (connection,) = both.asked._live()
        new = connection._next
        assert new is not None
        first, *others = theirs.candidates
        mid = both.asked.sctp.mid
        assert await both.asked.add_candidate(first, ufrag=theirs.ufrag, mid=mid)
        assert await both.asked.add_candidate(f"a={others[0]}")
        assert [candidate.type for candidate in new.remote_candidates] == ["host", "host"]
        known = len(before.remote_candidates)
        assert await both.asked.add_candidate("candidate:1 1 udp 1 127.0.0.1 9 typ host", ufrag=before.remote_username)
        assert len(before.remote_candidates) == known  # the offer had a=end-of-candidates
        assert await both.asked.end_of_candidates(ufrag=theirs.ufrag)
        assert await both.asked.add_candidate("candidate:1 1 udp 1 127.0.0.1 9 typ host")
        assert len(new.remote_candidates) == 2
        assert not await both.asked.add_candidate(first, ufrag="unknown")
        assert not await both.asked.add_candidate(first, mid="unknown")
        assert not await both.asked.end_of_candidates(ufrag="unknown")
        for line in ("", "candidate:", "candidate:1 x udp y 127.0.0.1 z typ host"):
            with pytest.raises(OfferError, match="candidate"):
                await both.asked.add_candidate(line)
        await both.asker.begin_restart(ours)
        await both.asked.restarted()
        await both.flows()


async def test_a_malformed_candidate_in_a_restart_changes_nothing() -> None:
    async with pair() as both:
        sockets = open_sockets()
        with pytest.raises(OfferError, match="candidate"):
            await both.asked.restart(replace(NOBODY, candidates=("candidate:nonsense",)))
        assert open_sockets() == sockets


async def test_a_restart_needs_free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "get_host_addresses", lambda **_: ["127.0.0.3"])
    with bind("127.0.0.3", None) as probe:
        port = probe.getsockname()[1]
    async with pair(asker=IceSettings(), asked=IceSettings(ports=(port, port))) as both:
        with pytest.raises(BusyError, match="all taken"):
            await both.asked.restart(NOBODY)
        await both.flows()
        assert both.states == {"connecting", "connected"}


async def test_what_is_not_up_cannot_restart() -> None:
    async with no_leaks(), no_sockets_left():
        both = Pair()
        await both.asker.setLocalDescription(await both.asker.createOffer())
        await both.asked.setRemoteDescription(both.asker.localDescription)
        await both.asked.setLocalDescription(await both.asked.createAnswer())
        with pytest.raises(IceRestartError, match="not up"):
            await both.asked.restart(NOBODY)
        with pytest.raises(IceRestartError, match="BUNDLE"):  # two transports until there is an answer
            await both.asker.restart(NOBODY)
        with pytest.raises(IceRestartError, match="no restart"):
            await both.asked.restarted()
        await both.close()
        with pytest.raises(IceRestartError, match="open"):
            await both.asked.restart(NOBODY)


async def test_a_machine_with_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "get_host_addresses", lambda **_: [])
    async with pair(asker=IceSettings(), asked=IceSettings()) as both:
        assert "127.0.0.1" in both.asker.localDescription.sdp


async def test_an_offer_whose_end_of_candidates_comes_without_any_is_connected_to() -> None:
    """As Firefox's is, once its `.local` names were left out."""
    async with no_leaks(), no_sockets_left():
        both = Pair()
        await both.asker.setLocalDescription(await both.asker.createOffer())
        sdp = both.asker.localDescription.sdp
        assert "a=end-of-candidates" in sdp
        bare = "".join(line for line in sdp.splitlines(keepends=True) if not line.startswith("a=candidate"))
        await both.asked.setRemoteDescription(RTCSessionDescription(bare, "offer"))
        await both.asked.setLocalDescription(await both.asked.createAnswer())
        await asyncio.sleep(0.1)  # long enough for the answering side to have tried what it knows
        await both.asker.setRemoteDescription(both.asked.localDescription)
        await both.flows()
        await both.close()


async def test_junk_before_anybody_reads_does_not_pile_up() -> None:
    connection = IceConnection(IceSettings(), (), "user", "p" * 22)
    for _ in range(2 * QUEUED_PACKETS):
        connection._received(b"junk")
    assert connection._packets.qsize() == QUEUED_PACKETS
    await connection.close()


def test_passwords_are_not_in_what_is_logged() -> None:
    assert "p" * 22 not in repr(NOBODY)
