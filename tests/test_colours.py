"""Colours on the way camera -> service -> model -> viewer."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc.codecs import depayload
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Decoder
from aiortc.codecs.vpx import Vp8Decoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from streamgen.clock import MonotonicClock
from streamgen.colours import BT601, BT709, OUT_PRIMARIES, OUT_TRANSFER, RGB, UNSPECIFIED, ToRgb, ToYuv, settle
from streamgen.core import Params, Pixels
from streamgen.encoders import LiveH264Encoder, LiveVp8Encoder
from streamgen.rtc.broadcast import Broadcast
from streamgen.rtc.scaling import Scaler
from streamgen.scheduler.stream import Ran
from tests.support.chart import GREENS, chart, errors, means
from tests.support.service import ManualClock, feed, make_session

LIMITED, FULL = ColorRange.MPEG, ColorRange.JPEG
SWS = {BT601: Colorspace.ITU601, BT709: Colorspace.ITU709}
CLOSE = 6.0
"""Levels of 255 that one or two conversions may be off. Measured: at most 5, in white of full range."""
CLOSE_ALL_THE_WAY = 8.0
"""The same for all conversions and two encodings. Measured: at most 7, and 5 where the camera's range was limited."""
CLEARLY = 12.0
"""What a wrong matrix does to greens, and more."""


def tagged(pixels: Pixels, matrix: int, colour_range: ColorRange, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    """`pixels` by this matrix and in this range, and saying so."""
    rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    picture = VideoReformatter().reformat(
        rgb, format=pix_fmt, dst_colorspace=SWS[matrix], dst_color_range=colour_range, src_color_range=FULL
    )
    picture.colorspace, picture.color_range = matrix, colour_range
    picture.pts, picture.time_base = 0, Fraction(1, 90000)
    return picture


def untagged(picture: av.VideoFrame) -> av.VideoFrame:
    picture.colorspace, picture.color_range = UNSPECIFIED, ColorRange.UNSPECIFIED
    return picture


class Line:
    """One encoder, RTP payloads, one decoder."""

    def __init__(self, name: str) -> None:
        self.encoder: Encoder = LiveH264Encoder(lambda: 16.0) if name == "H264" else LiveVp8Encoder(lambda: 16.0)
        self.decoder = {"H264": H264Decoder, "VP8": Vp8Decoder}[name]()
        self._parameters = RTCRtpCodecParameters(mimeType=f"video/{name}", clockRate=90000, payloadType=96)
        self._sent = 0

    def __call__(self, picture: av.VideoFrame) -> av.VideoFrame:
        """What comes of `picture` once its encoder has settled: the last of some frames."""
        seen: list[av.VideoFrame] = []
        for _ in range(8):
            picture.pts, picture.time_base = self._sent * 5625, Fraction(1, 90000)
            seen += self.decoded(*self.encoder.encode(picture, force_keyframe=self._sent == 0))
            self._sent += 1
        return seen[-1]

    def decoded(self, payloads: list[bytes], timestamp: int) -> list[av.VideoFrame]:
        data = b"".join(depayload(self._parameters, payload) for payload in payloads)
        return [f for f in self.decoder.decode(JitterFrame(data, timestamp)) if isinstance(f, av.VideoFrame)]


async def through_the_service(codec: str, arrived: av.VideoFrame) -> av.VideoFrame:
    """What a viewer decodes for a picture that the service has decoded; the model gives it back as it was."""
    pixels, clock = Scaler()(arrived, 320, 192), MonotonicClock()
    session = make_session(clock=ManualClock(clock.now()), params=Params(width=320, height=192))
    session.connected()
    feed(session, ManualClock(clock.now()), 4, 320, 192)
    view = session.view()
    assert view is not None
    work = session.submit([frame.id for frame in view.frames])
    session.deliver(work, np.stack([pixels] * 4), Ran("sequential", 1, 0.1))
    broadcast, viewer = Broadcast(session, clock), Line(codec)
    seat = broadcast.seat(f"video/{codec}")
    assert seat is not None
    seat.open()
    showing = asyncio.create_task(broadcast.run())
    seen = []
    for _ in range(4):
        encoded = await seat.next()
        seen += viewer.decoded(encoded.payloads, encoded.timestamp)
    session.close()
    await showing
    return seen[-1]


@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", [BT601, BT709])
@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_a_chart_keeps_its_colours_from_the_camera_to_the_viewer(
    codec: str, matrix: int, colour_range: ColorRange
) -> None:
    arrived = await asyncio.to_thread(Line(codec), tagged(chart(), matrix, colour_range))
    off = errors(ToRgb()(await through_the_service(codec, arrived)))
    assert max(off.values()) < CLOSE_ALL_THE_WAY, off


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_a_viewer_with_the_wrong_matrix_would_be_noticed(codec: str) -> None:
    decoded = Line(codec)(av.VideoFrame.from_ndarray(chart(), format="rgb24"))
    decoded.colorspace = BT709
    off = errors(ToRgb()(decoded))
    assert min(off[name] for name in GREENS) > CLEARLY


def test_h264_says_what_its_colours_mean() -> None:
    decoded = Line("H264")(tagged(chart(), BT709, FULL))
    described = decoded.colorspace, decoded.color_range, decoded.color_primaries, decoded.color_trc
    assert described == (BT601, LIMITED, OUT_PRIMARIES, OUT_TRANSFER)
    assert decoded.format.name == "yuv420p"


@pytest.mark.parametrize("size", [(320, 192), (208, 112)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "yuv420p10le"])
@pytest.mark.parametrize("matrix", [BT601, BT709])
def test_whatever_a_decoder_gives_is_read_as_it_says(matrix: int, pix_fmt: str, size: tuple[int, int]) -> None:
    for colour_range in [FULL] if pix_fmt.startswith("yuvj") else [LIMITED, FULL]:
        picture = tagged(chart(), matrix, colour_range, pix_fmt)
        assert max(errors(Scaler()(picture, *size)).values()) < CLOSE
        assert max(errors(ToRgb()(tagged(chart(), matrix, colour_range, pix_fmt))).values()) < CLOSE
        assert max(errors(ToRgb()(ToYuv()(picture))).values()) < CLOSE


@pytest.mark.parametrize("pix_fmt", ["rgb24", "gbrp", "bgra"])
def test_pictures_without_a_matrix_are_taken_as_they_are(pix_fmt: str) -> None:
    picture = av.VideoFrame.from_ndarray(chart(), format="rgb24").reformat(format=pix_fmt)
    settle(picture)
    assert (picture.colorspace, picture.color_range) == (RGB, FULL)
    assert max(errors(Scaler()(picture, 320, 192)).values()) < 1
    assert max(errors(ToRgb()(ToYuv()(picture))).values()) < CLOSE


@pytest.mark.parametrize(("width", "height"), [(320, 192), (1280, 720)])
def test_what_says_nothing_is_bt601_in_limited_range(width: int, height: int) -> None:
    picture = untagged(tagged(chart(width, height), BT601, LIMITED))
    assert max(errors(Scaler()(picture, 320, 192)).values()) < CLOSE
    other = untagged(tagged(chart(width, height), BT709, LIMITED))
    off = errors(Scaler()(other, 320, 192))
    assert min(off[name] for name in GREENS) > CLEARLY


def test_the_old_name_of_full_range_counts_without_a_tag() -> None:
    picture = untagged(tagged(chart(), BT601, FULL, "yuvj420p"))
    assert max(errors(Scaler()(picture, 320, 192)).values()) < CLOSE


@pytest.mark.parametrize("number", [0, 3, 8, 10, 14, 15])
def test_descriptions_that_cannot_be_are_passed_over(number: int) -> None:
    """An H264 stream may say any number. A matrix of RGB (0) for a picture of luma and chroma is one of them."""
    picture = tagged(chart(), BT601, LIMITED)
    picture.colorspace, picture.color_primaries, picture.color_trc = number, 3, 3
    assert max(errors(Scaler()(picture, 208, 112)).values()) < CLOSE
    picture.colorspace, picture.color_primaries, picture.color_trc = number, 3, 3
    assert max(errors(ToRgb()(picture)).values()) < CLOSE


def test_a_change_of_description_in_mid_stream_is_followed() -> None:
    scaler, to_rgb, to_yuv = Scaler(), ToRgb(), ToYuv()
    for matrix in (BT601, BT709, BT601):
        for colour_range in (LIMITED, FULL):
            for read in (lambda picture: scaler(picture, 320, 192), to_rgb, lambda picture: to_rgb(to_yuv(picture))):
                assert max(errors(read(tagged(chart(), matrix, colour_range))).values()) < CLOSE


def test_the_time_of_a_picture_stays() -> None:
    for picture in (tagged(chart(), BT709, FULL), tagged(chart(), BT601, LIMITED)):
        picture.pts = 4711
        converted = ToYuv()(picture)
        assert (converted.pts, converted.time_base) == (4711, Fraction(1, 90000))


def test_what_is_right_already_is_not_converted() -> None:
    picture = untagged(tagged(chart(), BT601, LIMITED))
    assert ToYuv()(picture) is picture
    assert picture.colorspace == BT601


@pytest.mark.parametrize("size", [(320, 192), (318, 190)])
def test_the_edge_between_two_colours_stays_where_it_is(size: tuple[int, int]) -> None:
    """Chroma has half the resolution; where its samples lie must be thought the same in both directions."""
    width, height = size
    source = np.zeros((height, width, 3), np.uint8)
    source[:, : width // 2], source[:, width // 2 :] = (200, 40, 40), (40, 40, 200)
    red = ToRgb()(ToYuv()(av.VideoFrame.from_ndarray(source, format="rgb24")))[height // 2, :, 0].astype(float)
    edge = ((red - red[-1]) / (red[0] - red[-1])).sum()  # where it lies, in pixels from the left
    assert abs(edge - width / 2) < 0.75


def test_the_means_of_the_chart_are_its_colours() -> None:
    assert max(errors(chart(200, 100)).values()) == 0
    assert len(means(chart())) == 32
