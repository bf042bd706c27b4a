import re

import pytest
from aiortc import VideoStreamTrack

from streamgen.client.peer import Peer
from streamgen.errors import ConnectError
from streamgen.jitter import Losses


async def test_no_public_stun_server_is_asked_unless_the_user_names_one():
    """aiortc asks one of its own choice where the list is left out, and waits seconds for its answer."""
    for wanted in ((), ("stun:stun.test:3478",)):
        peer = Peer(VideoStreamTrack(), wanted)
        servers = peer._pc._RTCPeerConnection__configuration.iceServers
        assert [server.urls for server in servers] == list(wanted)
        await peer.close()


@pytest.mark.parametrize(
    "answer", ["", "hello", "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n", "m=video 9 x x\r\n"]
)
async def test_an_answer_that_is_none_is_said_in_one_line(answer: str):
    peer = Peer(VideoStreamTrack(), ())
    await peer.offer()
    with pytest.raises(ConnectError, match="the service's answer cannot be used"):
        await peer.accept(answer)
    await peer.close()


async def test_a_machine_without_a_network_offers_its_loopback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: [])
    peer = Peer(VideoStreamTrack(), ())
    assert " 127.0.0.1 " in "".join(line for line in (await peer.offer()).splitlines() if "candidate:" in line)
    await peer.close()


@pytest.mark.parametrize("loopback", [False, True])
async def test_loopback_is_offered_to_a_service_on_this_machine(monkeypatch: pytest.MonkeyPatch, loopback: bool):
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: ["127.0.0.3"])
    peer = Peer(VideoStreamTrack(), (), loopback=loopback)
    sdp = await peer.offer()
    assert " 127.0.0.3 " in sdp
    assert (" 127.0.0.1 " in sdp) is loopback
    await peer.close()


async def test_a_machine_on_which_no_socket_can_be_opened(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: ["203.0.113.1"])
    peer = Peer(VideoStreamTrack(), ())
    with pytest.raises(ConnectError, match="no UDP socket can be opened"):
        await peer.offer()
    await peer.close()


async def test_losses_are_got_over_and_requests_limited():
    peer = Peer(VideoStreamTrack(), ())
    assert peer.losses == Losses()
    sender = peer._transceiver.sender
    assert all(name in sender.__dict__ for name in ("_send_keyframe", "_retransmit"))
    await peer.close()


@pytest.mark.parametrize(("codec", "offered"), [("", {"VP8", "H264"}), ("vp8", {"VP8"}), ("h264", {"H264"})])
async def test_a_codec_that_is_chosen_is_offered_alone(codec: str, offered: set[str]):
    peer = Peer(VideoStreamTrack(), (), codec)
    names = set(re.findall(r"a=rtpmap:\d+ (\w+)/90000", await peer.offer()))
    assert names - {"rtx"} == offered
    await peer.close()


def test_a_codec_that_there_is_not_is_an_error():
    with pytest.raises(ConnectError, match="codec must be one of h264, vp8, not 'av1'"):
        Peer(VideoStreamTrack(), (), "av1")
