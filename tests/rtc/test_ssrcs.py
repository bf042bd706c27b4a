from __future__ import annotations

from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters
from aiortc.rtp import RtpPacket

from streamgen.rtc.ssrcs import MOST, limit_sources


async def test_so_many_sources_are_heard_and_no_more() -> None:
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    receiver = connection.addTransceiver("video").receiver
    transport = receiver.transport
    codec = RTCRtpCodecParameters("video/VP8", 90000, payloadType=97)
    transport._register_rtp_receiver(receiver, RTCRtpReceiveParameters(codecs=[codec]))
    assert limit_sources(transport)
    routed = [
        transport._rtp_router.route_rtp(_packet(ssrc)) is receiver for ssrc in [*range(100, 100 + 3 * MOST), 100, 101]
    ]
    assert routed == [True] * MOST + [False] * 2 * MOST + [True, True]
    await connection.close()


def _packet(ssrc: int) -> RtpPacket:
    packet = RtpPacket(payload_type=97)
    packet.ssrc = ssrc
    return packet


def test_another_aiortc_is_left_alone() -> None:
    assert not limit_sources(object())  # type: ignore[arg-type]
