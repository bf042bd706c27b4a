from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder, VpxPayloadDescriptor
from hypothesis import given
from hypothesis import strategies as st

from streamgen.encoders import LiveH264Encoder, LiveVp8Encoder
from streamgen.keyframe import Key, key_of

VP8, H264 = "video/VP8", "video/H264"


def picture(number: int) -> av.VideoFrame:
    """Noise: its key frame takes many packets."""
    pixels = np.random.default_rng(number).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
    frame.pts, frame.time_base = number * 3000, Fraction(1, 90000)
    return frame


@pytest.mark.parametrize(
    ("codec", "make"),
    [
        (VP8, Vp8Encoder),
        (VP8, lambda: LiveVp8Encoder(lambda: 30.0)),
        (H264, H264Encoder),
        (H264, lambda: LiveH264Encoder(lambda: 30.0)),
    ],
)
def test_the_first_packet_of_what_an_encoder_makes_tells(codec, make):
    encoder = make()
    for number in range(6):
        payloads, _ = encoder.encode(picture(number), force_keyframe=number in (0, 3))
        keys = [key_of(codec, payload) for payload in payloads]
        assert len(keys) > 1 or number not in (0, 3)
        assert (keys[0] is Key.START) == (number in (0, 3))
        assert Key.START not in keys[1:]
        if number not in (0, 3):
            assert set(keys) == {Key.NO}


def unit(kind: int, size: int = 3) -> bytes:
    return bytes([0x60 | kind]) + bytes(size - 1)


def stap(*kinds: int) -> bytes:
    return bytes([24]) + b"".join(len(u := unit(kind, 5 + kind)).to_bytes(2) + u for kind in kinds)


@pytest.mark.parametrize(
    ("payload", "key"),
    [
        (unit(5), Key.SLICE),
        (unit(1), Key.NO),
        (unit(7), Key.START),
        (unit(8), Key.NO),
        (unit(9), Key.NO),
        (stap(7, 8), Key.START),
        (stap(9, 7, 8, 5), Key.START),
        (stap(6, 5), Key.SLICE),
        (stap(6, 1), Key.NO),
        (bytes([28, 0x80 | 5, 0]), Key.SLICE),
        (bytes([28, 5, 0]), Key.NO),
        (bytes([28, 0x40 | 5, 0]), Key.NO),
        (bytes([28, 0x80 | 1, 0]), Key.NO),
        (bytes([28, 0x80 | 7, 0]), Key.START),
        (b"", Key.NO),
        (b"\x65", Key.NO),
        (bytes([24, 0, 9, 0x65]), Key.SLICE),
    ],
)
def test_units_of_h264(payload: bytes, key: Key):
    assert key_of(H264, payload) is key
    assert key_of("video/h264", payload) is key


@pytest.mark.parametrize(
    ("payload", "key"),
    [
        (b"\x10\x00", Key.START),
        (b"\x10\x01", Key.NO),
        (b"\x00\x00", Key.NO),
        (b"\x11\x00", Key.NO),
        (b"\x10", Key.NO),
        (b"", Key.NO),
        (b"\x90\x80\x81", Key.NO),
        (bytes(VpxPayloadDescriptor(1, 0, picture_id=300, tl0picidx=1, tid=(1, 0), keyidx=2)) + b"\x10", Key.START),
        (bytes(VpxPayloadDescriptor(1, 0, picture_id=300, tl0picidx=1, tid=(1, 0), keyidx=2)) + b"\x11", Key.NO),
    ],
)
def test_descriptors_of_vp8(payload: bytes, key: Key):
    assert key_of(VP8, payload) is key


def test_of_another_codec_nothing_is_known():
    assert key_of("video/AV1", b"\x01") is Key.START


@given(st.sampled_from([VP8, H264]), st.binary(max_size=40))
def test_broken_payloads_harm_nothing(codec: str, payload: bytes):
    assert key_of(codec, payload) in Key
