from __future__ import annotations

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import VideoStreamTrack
from aiortc.sdp import SessionDescription

from streamgen.rtc.hints import with_bitrates

BITRATES = {"x-google-start-bitrate": "2500", "x-google-min-bitrate": "1500", "x-google-max-bitrate": "4000"}


@pytest.fixture
async def answer() -> str:
    """What aiortc itself answers: VP8 without format parameters, H264 with some, retransmission beside both."""
    here, there = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    here.addTransceiver(VideoStreamTrack())
    here.createDataChannel("control")
    await here.setLocalDescription(await here.createOffer())
    await there.setRemoteDescription(RTCSessionDescription(here.localDescription.sdp, "offer"))
    await there.setLocalDescription(await there.createAnswer())
    sdp = there.localDescription.sdp
    await here.close()
    await there.close()
    return sdp


def test_every_video_codec_gets_them_and_keeps_what_it_had(answer: str) -> None:
    before, after = (SessionDescription.parse(sdp) for sdp in (answer, with_bitrates(answer, 4000)))
    video = next(media for media in after.media if media.kind == "video")
    was = {c.payloadType: c for media in before.media if media.kind == "video" for c in media.rtp.codecs}
    names = {codec.name for codec in video.rtp.codecs}
    assert {"VP8", "H264", "rtx"} <= names
    for codec in video.rtp.codecs:
        extra = BITRATES if codec.name in ("VP8", "H264") else {}
        assert codec.parameters == {**was[codec.payloadType].parameters, **extra}


def test_a_small_limit_holds_from_the_start(answer: str) -> None:
    limited = "x-google-start-bitrate=800;x-google-min-bitrate=800;x-google-max-bitrate=800"
    assert limited in with_bitrates(answer, 800)


def test_nothing_else_changes(answer: str) -> None:
    kept = [line for line in with_bitrates(answer, 4000).splitlines() if not line.startswith("a=fmtp:")]
    assert kept == [line for line in answer.splitlines() if not line.startswith("a=fmtp:")]
    assert with_bitrates(answer, 4000).endswith("\r\n")
    assert with_bitrates("v=0\r\ns=-\r\n", 4000) == "v=0\r\ns=-\r\n"
