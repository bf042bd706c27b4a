"""What somebody may send who means no good: it costs little, gets a clear answer, and leaves the others alone.

Broken and oversized SDP: tests/rtc/test_offer.py, tests/test_whip.py and tests/test_gate.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator

import pytest
from aiortc import RTCIceTransport
from aiortc.sdp import SessionDescription

from streamgen.errors import BusyError, OfferError
from streamgen.rtc.offer import MAX_CANDIDATES
from tests.support.service import settled
from tests.support.stage import PARAMS, Stage
from tests.support.webrtc import Client, client, no_leaks, until


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage(connect_timeout_s=1.5, max_sessions=20)
    yield made
    await made.stop()


async def only_ice(peer: Client, sdp: str) -> RTCIceTransport:
    """Answers the service's connectivity checks, and goes no further."""
    (media, *_) = SessionDescription.parse(sdp).media
    ice = peer.connection.getTransceivers()[0].receiver.transport.transport
    for candidate in media.ice_candidates:
        await ice.addRemoteCandidate(candidate)
    await ice.addRemoteCandidate(None)
    assert media.ice is not None
    await ice.start(media.ice)
    assert ice.state == "completed"
    return ice


async def keeps_going(bystander: Client) -> None:
    """Pictures still come to somebody else."""
    seen = len(bystander.frames)
    await until(lambda: len(bystander.frames) > seen + 8)


async def test_a_peer_that_never_begins_dtls_is_closed_in_time(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async with no_leaks(), client() as bystander, client() as attacker:
        await stage.open(bystander)
        opened = await stage.service.open(await attacker.offer(), PARAMS)
        await only_ice(attacker, opened.sdp)
        await keeps_going(bystander)
        await until(lambda: opened.session.state == "closed")
        assert opened.session.end_reason == "the media connection did not come up"
        await keeps_going(bystander)
        await stage.stop()
    assert [it for it in caplog.records if it.name.startswith("streamgen") and it.levelno >= logging.ERROR] == []


async def test_garbage_instead_of_dtls_is_passed_over(stage: Stage) -> None:
    random_ = random.Random(5)
    async with no_leaks(), client() as bystander, client() as attacker:
        await stage.open(bystander)
        opened = await stage.service.open(await attacker.offer(), PARAMS)
        ice = await only_ice(attacker, opened.sdp)
        for number in range(3000):
            first = random_.choice([0, 20, 22, 64, 128, 144, 191, 255])
            await ice._send(bytes([first]) + random_.randbytes(random_.randrange(1200)))
            if number % 300 == 0:
                await keeps_going(bystander)
        await until(lambda: opened.session.state == "closed")
        await keeps_going(bystander)
        await stage.stop()


async def test_garbage_that_is_not_encrypted_as_agreed_on_harms_nobody(stage: Stage) -> None:
    """Whoever knows the port can send it."""
    random_ = random.Random(6)
    async with no_leaks(), client() as victim:
        session = stage.service.session(await stage.open(victim))
        await until(lambda: victim.frames)
        ice = victim.connection.getTransceivers()[0].sender.transport.transport
        for number in range(3000):
            await ice._send(garbage(random_))
            if number % 500 == 0:
                await keeps_going(victim)
        await keeps_going(victim)
        assert session.state == "live"
        await stage.stop()


async def test_garbage_from_a_client_costs_that_client_alone(stage: Stage) -> None:
    random_ = random.Random(7)
    async with no_leaks(), client() as bystander, client() as attacker:
        await stage.open(bystander)
        session = stage.service.session(await stage.open(attacker))
        await until(lambda: attacker.frames)
        dtls = attacker.connection.getTransceivers()[0].sender.transport
        for number in range(1500):
            await dtls._send_rtp(garbage(random_))
            if number % 300 == 0:
                await keeps_going(bystander)
        await keeps_going(bystander)
        await stage.service.close(session.id, "enough")
        assert settled(session)
        await stage.stop()


def garbage(random_: random.Random) -> bytes:
    """Something that begins like RTP or like RTCP."""
    if random_.random() < 0.5:
        return bytes([128, random_.randrange(256)]) + random_.randbytes(10 + random_.randrange(1000))
    return bytes([128 + random_.randrange(32), 200 + random_.randrange(8)]) + random_.randbytes(30)


async def test_floods_of_pli_and_nack_are_answered_in_moderation(stage: Stage) -> None:
    async with no_leaks(), client() as bystander, client() as attacker:
        await stage.open(bystander)
        session_id = await stage.open(attacker)
        await until(lambda: attacker.frames)
        (encoding,) = stage.service._place(session_id)._broadcast._encodings.values()
        transceiver = attacker.connection.getTransceivers()[0]
        (ssrc, *_) = (source.source for source in transceiver.receiver.getSynchronizationSources())
        for number in range(2000):
            await transceiver.receiver._send_rtcp_pli(ssrc)
            await transceiver.receiver._send_rtcp_nack(ssrc, list(range(60)))
            if number % 250 == 0:
                await keeps_going(bystander)
        await keeps_going(attacker)
        assert encoding._key_frames.asked > 1500
        assert encoding._key_frames.made < encoding._key_frames.asked / 20
        await stage.stop()


async def test_offers_that_never_connect_take_no_place_for_long(stage: Stage) -> None:
    """41 of 43 such offers stay "connecting" for ever in aiortc by itself."""
    async with no_leaks(), client() as bystander, client() as attacker:
        await stage.open(bystander)
        sdp = re.sub(r"a=candidate.*\r\n", "", await attacker.offer())
        sessions = [(await stage.service.open(sdp, PARAMS)).session for _ in range(19)]
        with pytest.raises(BusyError, match="no room"):
            await stage.service.open(sdp, PARAMS)
        await keeps_going(bystander)
        await until(lambda: all(session.state == "closed" for session in sessions))
        assert len(stage.service._places) == 1
        await stage.stop()


async def test_thousands_of_candidates_are_refused_before_anything_is_sent(stage: Stage) -> None:
    async with client() as attacker:
        lines = "".join(f"a=candidate:{i} 1 udp 1 192.0.2.1 {1024 + i} typ host\r\n" for i in range(800))
        with pytest.raises(OfferError, match=f"more than {MAX_CANDIDATES} candidates"):
            await stage.service.open(await attacker.offer() + lines, PARAMS)
        assert stage.service._places == {}


async def test_a_flood_of_control_messages_costs_only_their_sender(stage: Stage) -> None:
    async with no_leaks(), client() as bystander, client() as attacker:
        await stage.open(bystander)
        session = stage.service.session(await stage.open(attacker))
        await until(lambda: attacker.frames)
        for number in range(3000):
            attacker.channel.send('{"type": "update", "seq": 1, "params": {"prompt": "' + "x" * 500 + '"}}')
            attacker.channel.send("nonsense")
            if number % 500 == 0:
                await asyncio.sleep(0.05)
        await keeps_going(bystander)
        await until(lambda: len(attacker.heard("rejected")) > 100)
        assert session.state == "live"
        await stage.stop()
