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


async def test_a_machine_without_a_network(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: [])
    peer = Peer(VideoStreamTrack(), ())
    with pytest.raises(ConnectError, match="no network address"):
        await peer.offer()
    await peer.close()


async def test_losses_are_got_over_and_requests_limited():
    peer = Peer(VideoStreamTrack(), ())
    assert peer.losses == Losses()
    sender = peer._transceiver.sender
    assert all(name in sender.__dict__ for name in ("_send_keyframe", "_retransmit"))
    await peer.close()
