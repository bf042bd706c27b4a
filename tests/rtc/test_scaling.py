from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from streamgen.rtc.scaling import Scaler


def picture(pixels: np.ndarray, pts: int = 0) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
    frame.pts = pts
    frame.time_base = Fraction(1, 90000)
    return frame


def test_a_wide_picture_loses_its_sides() -> None:
    source = np.zeros((192, 640, 3), np.uint8)
    source[:, 160:480] = 200  # what is left after the crop
    result = Scaler()(picture(source), 320, 192)
    assert result.shape == (192, 320, 3)
    assert abs(int(result[96, 160, 0]) - 200) < 4
    assert result[:, 4:-4].min() > 190


def test_a_tall_picture_loses_top_and_bottom() -> None:
    source = np.zeros((640, 320, 3), np.uint8)
    source[224:416] = 200
    result = Scaler()(picture(source), 320, 192)
    assert result.shape == (192, 320, 3)
    assert result[4:-4].min() > 190


def test_the_right_size_passes_unchanged() -> None:
    generator = np.random.default_rng(0)
    blocks = generator.integers(16, 236, (24, 40, 1), dtype=np.uint8)
    source = np.repeat(np.kron(blocks, np.ones((8, 8, 1), np.uint8)), 3, axis=2)
    result = Scaler()(picture(source), 320, 192)
    assert np.abs(result.astype(int) - source).max() <= 3


def test_it_follows_changes_of_source_and_target() -> None:
    scaler = Scaler()
    for width, height, target in ((640, 480, (320, 192)), (480, 640, (320, 192)), (480, 640, (64, 128))):
        result = scaler(picture(np.full((height, width, 3), 90, np.uint8)), *target)
        assert result.shape == (target[1], target[0], 3)
        assert abs(int(result.mean()) - 90) < 3


def test_timestamps_need_not_rise() -> None:
    scaler = Scaler()
    for pts in (10**9, 5, 5, 0):
        assert scaler(picture(np.zeros((64, 64, 3), np.uint8), pts), 64, 64).shape == (64, 64, 3)


@pytest.mark.parametrize(("width", "height"), [(16, 4096), (4096, 16)])
def test_odd_shapes_cost_no_memory(width: int, height: int) -> None:
    assert Scaler()(picture(np.zeros((height, width, 3), np.uint8)), 1280, 720).shape == (720, 1280, 3)


def test_a_picture_too_small_to_crop_is_an_error_and_the_next_is_fine() -> None:
    scaler = Scaler()
    with pytest.raises(av.FFmpegError):
        scaler(picture(np.zeros((2, 2, 3), np.uint8)), 1280, 720)
    assert scaler(picture(np.zeros((64, 64, 3), np.uint8)), 64, 64).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("source", "target", "inner"),
    [
        ((640, 480), (320, 192), (slice(0, 192), slice(32, 288))),
        ((480, 640), (320, 192), (slice(0, 192), slice(88, 232))),
        ((640, 200), (320, 192), (slice(46, 146), slice(0, 320))),
        ((320, 192), (320, 192), (slice(0, 192), slice(0, 320))),
    ],
)
def test_a_picture_that_is_kept_whole_lies_between_black_bars(
    source: tuple[int, int], target: tuple[int, int], inner: tuple[slice, slice]
) -> None:
    result = Scaler()(picture(np.full((source[1], source[0], 3), 200, np.uint8)), *target, whole=True)
    assert result.shape == (target[1], target[0], 3)
    assert np.abs(result[inner].astype(int) - 200).max() <= 3
    outside = np.ones(result.shape[:2], bool)
    outside[inner] = False
    assert not result[outside].any()


def test_nothing_of_a_picture_that_is_kept_whole_is_cut_off() -> None:
    source = np.full((480, 640, 3), 60, np.uint8)
    source[:16], source[-16:], source[:, :16], source[:, -16:] = 220, 220, 220, 220
    result = Scaler()(picture(source), 320, 192, whole=True)[:, 32:288]
    for edge in (result[2], result[-3], result[:, 2], result[:, -3]):
        assert edge.min() > 180
    assert abs(int(result[96, 128, 0]) - 60) < 4


@pytest.mark.parametrize(("width", "height"), [(16, 4096), (4096, 16)])
def test_odd_shapes_that_are_kept_whole_cost_no_memory(width: int, height: int) -> None:
    result = Scaler()(picture(np.full((height, width, 3), 200, np.uint8)), 1280, 720, whole=True)
    assert result.shape == (720, 1280, 3)
    assert result.any()


def test_it_follows_a_change_of_fit() -> None:
    scaler, source = Scaler(), picture(np.full((480, 640, 3), 200, np.uint8))
    for whole in (False, True, False):
        assert bool(scaler(source, 320, 192, whole=whole)[:, :8].any()) is not whole
