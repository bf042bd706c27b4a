from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.fake import FAKE_SPEC
from streamgen.errors import ParamsError
from streamgen.mediafile import Picture, VideoReader
from streamgen.rendition import Rendition, check, thinned
from tests.support.clips import MILLISECOND, make_clip


def pictures(times: range) -> Iterator[Picture]:
    for ms in times:
        yield Picture(np.full((64, 64, 3), ms % 251, np.uint8), ms, times.step)


def test_thinning_keeps_times_and_length() -> None:
    kept = list(thinned(pictures(range(0, 1000, 20)), 10, MILLISECOND))
    assert [p.pts for p in kept] == list(range(0, 1000, 100))
    assert {p.duration for p in kept} == {100}


def test_thinning_holds_the_rate_where_it_does_not_divide() -> None:
    kept = [p.pts for p in thinned(pictures(range(0, 10_000, 20)), 16, Fraction(1, 1000))]
    assert len(kept) == 160
    assert max(b - a for a, b in pairwise(kept)) <= 80


def test_thinning_leaves_slower_videos_alone() -> None:
    assert len(list(thinned(pictures(range(0, 1000, 100)), 16, MILLISECOND))) == 10


def test_a_copy_has_the_times_and_the_sound_of_its_source(tmp_path: Path) -> None:
    source, target = make_clip(tmp_path / "in.mkv", audio="aac"), tmp_path / "out.mkv"
    with VideoReader(source) as reader:
        with Rendition(reader, target, FAKE_SPEC, {"prompt": "ink", "fps": 5.0}) as copy:
            assert (copy.size, copy.params.fps, copy.expected) == ((320, 192), 5.0, 5)
            for picture in copy.pictures():
                assert picture.pixels.shape == (192, 320, 3)
                copy.write(picture)
        assert (copy.written, copy.damaged) == (5, 0)
    with av.open(target) as container:
        assert [round(frame.time * 1000) for frame in container.decode(video=0)] == list(range(0, 1000, 200))
        assert len(container.streams.audio) == 1


def test_a_copy_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4")
    with (
        VideoReader(source) as reader,
        pytest.raises(KeyboardInterrupt),
        Rendition(reader, tmp_path / "out.mp4", FAKE_SPEC, {"prompt": "ink"}) as copy,
    ):
        copy.write(next(copy.pictures()))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [source]


def test_what_the_pipeline_cannot_run_is_said_before_anything_is_written(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4")
    with VideoReader(source) as reader, pytest.raises(ParamsError, match="multiple of 16"):
        Rendition(reader, tmp_path / "out.mp4", FAKE_SPEC, {"prompt": "ink", "width": 100})
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": "ink", "steps": 9}, "steps"),
        ({"prompt": "ink", "slo_ms": 100.0}, "slo_ms"),
        ({"prompt": "ink", "nonsense": 1}, "nonsense"),
    ],
)
def test_what_a_copy_cannot_be_asked_for_is_named(asked: dict[str, object], field: str) -> None:
    with pytest.raises(ParamsError) as caught:
        check(asked)
    assert caught.value.field == field
