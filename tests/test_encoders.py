from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.codecs import depayload
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.mediastreams import VideoStreamTrack
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from streamgen.encoders import MOST_BITRATE, START_BITRATE, LiveH264Encoder, LiveVp8Encoder, encode_live

FPS = 16
H264, VP8 = "H264", "VP8"
LIVE = {H264: LiveH264Encoder, VP8: LiveVp8Encoder}
STOCK = {H264: H264Encoder, VP8: Vp8Encoder}
DECODER = {H264: "h264", VP8: "vp8"}


def fps() -> float:
    return FPS


def picture(number: int, width: int = 320, height: int = 192, seconds: float | None = None) -> av.VideoFrame:
    """A detailed picture that moves two pixels a frame."""
    wide = np.random.default_rng(0).integers(0, 256, (height // 8, width // 4, 3), dtype=np.uint8)
    large = np.repeat(np.repeat(wide, 8, axis=0), 8, axis=1)
    frame = av.VideoFrame.from_ndarray(np.roll(large, 2 * number, axis=1)[:, :width].copy(), format="rgb24")
    frame = frame.reformat(format="yuv420p")
    frame.pts, frame.time_base = round(90000 * (number / FPS if seconds is None else seconds)), Fraction(1, 90000)
    return frame


def sizes(encoder: H264Encoder | Vp8Encoder, count: int) -> list[int]:
    """Bytes of each frame on the wire."""
    return [sum(map(len, encoder.encode(picture(i), force_keyframe=i == 0)[0])) for i in range(count)]


@pytest.mark.parametrize("name", LIVE)
def test_pictures_come_out_as_they_went_in(name: str) -> None:
    encoder, decoder = LIVE[name](fps), av.CodecContext.create(DECODER[name], "r")
    parameters = RTCRtpCodecParameters(mimeType=f"video/{name}", clockRate=90000, payloadType=96)
    seen = []
    for number in range(20):
        payloads, timestamp = encoder.encode(picture(number), force_keyframe=number == 0)
        assert timestamp == round(90000 * number / FPS)
        packet = av.Packet(b"".join(depayload(parameters, payload) for payload in payloads))
        seen += [(number, frame) for frame in decoder.decode(packet)]
    assert len(seen) >= 18
    for number, frame in seen[-5:]:
        luma, wanted = (f.to_ndarray(format="gray").astype(float) for f in (frame, picture(number)))
        assert np.abs(luma - wanted).mean() < 12, number


@pytest.mark.parametrize("name", LIVE)
def test_a_key_frame_in_mid_stream_is_no_larger_than_the_buffer(name: str) -> None:
    encoder = LIVE[name](fps)
    for number in range(30):
        encoder.encode(picture(number), force_keyframe=number == 0)
    (payloads, _) = encoder.encode(picture(30), force_keyframe=True)
    share = START_BITRATE / FPS / 8
    assert sum(map(len, payloads)) < 4 * share


@pytest.mark.parametrize("name", LIVE)
def test_the_bitrate_is_kept(name: str) -> None:
    encoder = LIVE[name](fps)
    encoder.target_bitrate = 400_000
    assert sum(sizes(encoder, 4 * FPS)[FPS:]) * 8 / 3 < 1.4 * 400_000


@pytest.mark.parametrize("name", LIVE)
def test_small_changes_of_the_estimate_and_soon_ones_make_no_new_encoder(name: str) -> None:
    encoder = LIVE[name](fps)

    def at(seconds: float) -> object:
        encoder.encode(picture(round(seconds * FPS)), force_keyframe=False)
        return encoder.codec

    first = at(0.0)
    encoder.target_bitrate = int(START_BITRATE * 1.2)
    assert at(10.0) is first
    encoder.target_bitrate = START_BITRATE // 2
    second = at(10.5)
    assert second is not first
    encoder.target_bitrate = START_BITRATE
    assert at(12.0) is second
    assert at(13.6) is not second
    encoder.target_bitrate = 10**9
    assert encoder.target_bitrate == MOST_BITRATE


@pytest.mark.parametrize("name", LIVE)
def test_what_the_session_allows_comes_before_what_the_receiver_takes(name: str) -> None:
    allowed = 1_000_000
    encoder = LIVE[name](fps, lambda: allowed)
    encoder.encode(picture(0))
    assert encoder.codec is not None
    assert encoder.codec.bit_rate == allowed
    allowed = 500_000
    encoder.encode(picture(10 * FPS))
    assert encoder.codec.bit_rate == allowed


@pytest.mark.parametrize("name", LIVE)
def test_another_size_is_encoded_at_once(name: str) -> None:
    encoder = LIVE[name](fps)
    encoder.encode(picture(0))
    encoder.encode(picture(1, 128, 64))
    assert encoder.codec is not None
    assert (encoder.codec.width, encoder.codec.height) == (128, 64)


async def negotiated(name: str) -> tuple[RTCPeerConnection, RTCPeerConnection]:
    here, there = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    transceiver = here.addTransceiver(VideoStreamTrack())
    codecs = RTCRtpSender.getCapabilities("video").codecs
    transceiver.setCodecPreferences([codec for codec in codecs if codec.mimeType == f"video/{name}"])
    await here.setLocalDescription(await here.createOffer())
    await there.setRemoteDescription(RTCSessionDescription(here.localDescription.sdp, "offer"))
    return here, there


@pytest.mark.parametrize(("name", "made"), LIVE.items())
async def test_a_sender_gets_the_encoder_of_the_codec_that_was_agreed_on(
    name: str, made: Callable[..., object]
) -> None:
    """And this aiortc keeps its encoder where we look."""
    here, there = await negotiated(name)
    (transceiver,) = there.getTransceivers()
    assert encode_live(transceiver, fps)
    assert isinstance(transceiver.sender._RTCRtpSender__encoder, made)
    await here.close()
    await there.close()


def test_another_aiortc_is_left_alone() -> None:
    assert not encode_live(object(), fps)  # type: ignore[arg-type]
