import numpy as np
import pytest
from aiortc.codecs.h264 import H264Decoder, H264Encoder, h264_depayload
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder, vp8_depayload
from aiortc.jitterbuffer import JitterFrame
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from hypothesis import given
from hypothesis import strategies as st

from streamgen.bench.barcode import MIN_WIDTH, NARROW, STRIP_ROWS, WIDE, Barcode, Layout, Stamp
from streamgen.bench.scenes import synthetic
from streamgen.client.sources import video_frame

CODECS = {
    "vp8": (Vp8Encoder, Vp8Decoder, vp8_depayload),
    "h264": (H264Encoder, H264Decoder, h264_depayload),
}


def noise(width=320, height=192, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@given(
    source=st.integers(0, 15),
    counter=st.integers(0, 2**16 - 1),
    clock_ms=st.integers(0, 2**20 - 1),
    width=st.integers(MIN_WIDTH, 1920),
)
def test_what_is_drawn_is_read(source: int, counter: int, clock_ms: int, width: int):
    pixels = noise(width, 64)
    below = pixels[STRIP_ROWS:].copy()
    layout = Barcode(width).layout
    stamp = Stamp(source, counter % layout.counter_range, clock_ms % layout.clock_range_ms)
    Barcode(width).draw(pixels, stamp)
    assert Barcode(width).read(pixels) == stamp
    assert np.array_equal(pixels[STRIP_ROWS:], below)


@pytest.mark.parametrize("codec", CODECS)
def test_it_survives_a_codec_at_its_lowest_rate(codec: str):
    make_encoder, make_decoder, depayload = CODECS[codec]
    encoder, decoder, barcode = make_encoder(), make_decoder(), Barcode(320)
    encoder.target_bitrate = 250_000
    read = []
    stamps = [Stamp(3, number, 62 * number + 5) for number in range(60)]
    for stamp, pixels in zip(stamps, synthetic(320, 192), strict=False):
        barcode.draw(pixels, stamp)
        payloads, timestamp = encoder.encode(video_frame(pixels, stamp.counter * 5625))
        data = b"".join(depayload(payload) for payload in payloads)
        for frame in decoder.decode(JitterFrame(data, timestamp)):
            assert isinstance(frame, VideoFrame)
            read.append(barcode.read(frame.to_ndarray(format="rgb24")))
    assert read == stamps[: len(read)]
    assert len(read) >= 58


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((192, 320, 3), np.uint8),
        np.full((192, 320, 3), 255, np.uint8),
        np.full((192, 320, 3), 128, np.uint8),
        noise(),
        np.zeros((8, 320, 3), np.uint8),
        np.zeros((192, 16, 3), np.uint8),
    ],
)
def test_where_there_is_none_none_is_read(pixels: np.ndarray):
    assert Barcode(320).read(pixels) is None


@pytest.mark.parametrize("cell", range(48))
def test_one_wrong_cell_is_noticed(cell: int):
    pixels = noise()
    barcode = Barcode(320)
    barcode.draw(pixels, Stamp(1, 1234, 56789))
    row, column = divmod(cell, 24)
    part = pixels[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
    part[:] = 255 - part
    assert barcode.read(pixels) is None
    part[:] = 128
    assert barcode.read(pixels) is None


def test_low_contrast_and_another_size_still_read():
    pixels = noise()
    stamp = Stamp(2, 77, 1000)
    Barcode(320).draw(pixels, stamp)
    faint = (pixels * 0.4 + 60).astype(np.uint8)
    assert Barcode(320).read(faint) == stamp
    wider = pixels.repeat(2, axis=1)
    assert Barcode(320).read(wider) == stamp


def test_narrow_pictures_are_refused():
    with pytest.raises(ValueError, match="at least 128"):
        Barcode(127)


def digits(layout: Layout) -> list[Stamp]:
    """Stamps in which every cell but the checksum's is once the only white one, and once the only black one."""
    one_white = [
        *(Stamp(1 << bit, 0, 0) for bit in range(4)),
        *(Stamp(0, 1 << bit, 0) for bit in range(layout.counter_bits)),
        *(Stamp(0, 0, 1 << bit) for bit in range(layout.clock_bits)),
    ]
    most = Stamp(15, layout.counter_range - 1, layout.clock_range_ms - 1)
    one_black = [
        Stamp(most.source - it.source, most.counter - it.counter, most.clock_ms - it.clock_ms) for it in one_white
    ]
    return [Stamp(0, 0, 0), most, *one_white, *one_black]


@pytest.mark.parametrize("interpolation", [Interpolation.POINT, Interpolation.AREA])
@pytest.mark.parametrize("share", [0.75, 0.5])
@pytest.mark.parametrize("size", [(320, 192), (192, 128), (832, 480), (128, 64)])
def test_every_digit_is_read_in_a_picture_that_came_back_smaller(
    size: tuple[int, int], share: float, interpolation: Interpolation
):
    width, height = size
    barcode, pixels = Barcode(width, height), noise(width, height)
    for stamp in digits(barcode.layout):
        barcode.draw(pixels, stamp)
        sent = VideoFrame.from_ndarray(pixels, format="rgb24")
        came = sent.reformat(width=int(width * share), height=int(height * share), interpolation=interpolation)
        assert barcode.read(came.to_ndarray(format="rgb24")) == stamp


def test_without_the_height_that_was_sent_the_strip_is_taken_to_be_as_high_as_ever():
    pixels, stamp = noise(320, 192), Stamp(2, 77, 1000)
    Barcode(320).draw(pixels, stamp)
    assert Barcode(320).read(pixels[:96]) == stamp
    assert Barcode(320, 192).read(pixels[:96]) is None


def test_drawn_into_luma_it_reads_as_well():
    barcode, luma, stamp = Barcode(320), np.full((192, 320), 90, np.uint8), Stamp(2, 77, 1000)
    barcode.draw_luma(luma, stamp)
    assert set(np.unique(luma[:STRIP_ROWS, : barcode.strip_width])) == {16, 235}
    assert np.all(luma[STRIP_ROWS:] == 90)
    assert barcode.read(luma[:, :, None].repeat(3, axis=2)) == stamp


def test_narrow_pictures_have_numbers_that_wrap_sooner():
    assert Barcode(191).layout is NARROW
    assert Barcode(192).layout is WIDE
    pixels = noise(128, 64)
    Barcode(128).draw(pixels, Stamp(17, 1025, 1030))
    assert Barcode(128).read(pixels) == Stamp(1, 1, 6)
