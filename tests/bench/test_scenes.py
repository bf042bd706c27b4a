import itertools
from pathlib import Path

import numpy as np
import pytest

from streamgen.bench.scenes import from_file, synthetic
from streamgen.errors import MediaFileError
from tests.support.clips import make_clip


def test_the_drawn_scene_moves_and_repeats_with_its_seed():
    first, second, third = itertools.islice(synthetic(320, 192, seed=1), 3)
    assert first.shape == (192, 320, 3)
    assert first.dtype == np.uint8
    assert np.abs(first.astype(int) - second).mean() > 1
    assert np.abs(second.astype(int) - third).mean() > 1
    assert np.array_equal(first, next(synthetic(320, 192, seed=1)))
    assert not np.array_equal(first, next(synthetic(320, 192, seed=2)))


@pytest.mark.parametrize("size", [(64, 64), (321, 193), (832, 480)])
def test_any_size(size: tuple[int, int]):
    width, height = size
    for picture in itertools.islice(synthetic(width, height), 130):
        assert picture.shape == (height, width, 3)


def test_a_file_goes_round_and_round_in_the_size_asked_for(tmp_path: Path):
    clip = make_clip(tmp_path / "clip.mp4", times_ms=range(0, 300, 100))
    pictures = list(itertools.islice(from_file(clip, 320, 192), 7))
    assert {picture.shape for picture in pictures} == {(192, 320, 3)}
    assert np.array_equal(pictures[0], pictures[3])
    assert not np.array_equal(pictures[0], pictures[1])
    pictures[0][:16] = 0  # can be drawn on


def test_a_file_that_is_no_video(tmp_path: Path):
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(MediaFileError, match=r"cannot read noise\.mp4 as video"):
        next(from_file(noise, 320, 192))
