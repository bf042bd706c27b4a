from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fake import FAKE_SPEC
from streamgen.core import Params, PipelineSpec
from streamgen.framing import SIZES, SourceShape, fitted_size, framed

specs = st.builds(
    lambda multiple, width, height, room: replace(
        FAKE_SPEC,
        size_multiple=multiple,
        max_pixels=round(width * height * multiple**2 * room),
        defaults=Params(width=width * multiple, height=height * multiple),
    ),
    st.sampled_from([8, 16, 32]),
    st.integers(12, 26),
    st.integers(12, 26),
    st.floats(1.0, 3.0),
)
sides = st.integers(1, 4096)


@pytest.mark.parametrize(
    ("source", "wanted", "size"),
    [
        ((640, 384), (None, None), (320, 192)),
        ((832, 480), (None, None), (336, 192)),
        ((1080, 1920), (None, None), (192, 336)),
        ((640, 640), (None, None), (240, 240)),
        ((1920, 1080), (320, None), (320, 176)),
        ((1920, 1080), (None, 192), (336, 192)),
        ((1920, 1080), (64, 192), (64, 192)),
        ((10, 4000), (None, None), (64, 960)),
        ((1, 1), (1920, None), (1920, 480)),
        ((1, 1), (None, 1920), (480, 1920)),
    ],
)
def test_the_size_follows_the_shape_of_the_source(
    source: tuple[int, int], wanted: tuple[int | None, int | None], size: tuple[int, int]
) -> None:
    assert fitted_size(source, FAKE_SPEC, *wanted) == size


def test_the_size_stays_within_what_the_preset_can_do() -> None:
    spec = replace(FAKE_SPEC, max_pixels=320 * 192)
    for shape in [(832, 480), (480, 832), (16, 9), (4, 3), (1, 1), (21, 9)]:
        width, height = fitted_size(shape, spec)
        assert width * height <= spec.max_pixels
        assert width % 16 == height % 16 == 0


@given(specs, sides, sides)
def test_a_size_that_nobody_asked_for_is_one_that_the_preset_can_run(
    spec: PipelineSpec, width: int, height: int
) -> None:
    size = fitted_size((width, height), spec)
    spec.check(replace(spec.defaults, width=size[0], height=size[1]))  # Params checks its own bounds
    wanted = spec.defaults.width * spec.defaults.height
    assert 0.6 * wanted < size[0] * size[1] < 1.5 * wanted


@given(specs, sides, st.floats(0.5, 2.0))
def test_the_shape_of_a_camera_is_kept(spec: PipelineSpec, width: int, shape: float) -> None:
    """To within a step of the shorter side: what lies between two sizes cannot be had."""
    source = width * 100, max(1, round(width * 100 / shape))
    size = fitted_size(source, spec)
    wanted, had = source[0] / source[1], size[0] / size[1]
    assert abs(had / wanted - 1) <= 1.01 * spec.size_multiple / min(size)


@given(specs, sides, sides, st.integers(64, 1920))
def test_one_side_that_is_asked_for_stays(spec: PipelineSpec, width: int, height: int, asked: int) -> None:
    size = fitted_size((width, height), spec, width=asked)
    turned = fitted_size((height, width), spec, height=asked)
    assert size == turned[::-1]
    assert size[0] == asked
    assert size[1] % spec.size_multiple == 0
    Params(width=size[0], height=size[1])
    assert size[0] * size[1] <= spec.max_pixels or size[1] == 64


@given(specs, sides, sides)
def test_a_camera_on_its_side_gives_a_picture_on_its_side(spec: PipelineSpec, width: int, height: int) -> None:
    upright = replace(spec, defaults=replace(spec.defaults, width=spec.defaults.height, height=spec.defaults.width))
    assert fitted_size((width, height), spec) == fitted_size((height, width), upright)[::-1]


@pytest.mark.parametrize(
    ("asked", "source", "size"),
    [
        ((), None, (320, 192)),
        ((), (480, 640), (208, 272)),
        (("width",), None, (128, 80)),
        (("width",), (480, 640), (128, 176)),
        (("height",), (640, 480), (80, 64)),
        (("width", "height"), (480, 640), (128, 64)),
    ],
)
def test_parameters_that_were_not_asked_for_follow_the_source(
    asked: tuple[str, ...], source: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    params = framed(Params(prompt="ink", width=128, height=64), FAKE_SPEC, asked, source)
    assert (params.width, params.height) == size
    assert params.prompt == "ink"


def test_the_names_are_those_of_the_parameters() -> None:
    assert set(Params().as_dict()) >= SIZES


def test_a_source_has_the_shape_of_its_first_picture() -> None:
    shape = SourceShape()
    assert shape.size is None
    assert shape.saw((640, 480))
    assert not shape.saw((640, 480))
    assert shape.size == (640, 480)


def test_a_camera_that_is_turned_counts_when_it_has_settled() -> None:
    shape = SourceShape()
    shape.saw((640, 480))
    told = [shape.saw((480, 640)) for _ in range(2 * SourceShape.SETTLED)]
    assert told.index(True) == SourceShape.SETTLED - 1
    assert told.count(True) == 1
    assert shape.size == (480, 640)


@pytest.mark.parametrize("size", [(320, 240), (624, 480), (160, 128)])
def test_the_same_picture_in_another_resolution_is_no_other_shape(size: tuple[int, int]) -> None:
    shape = SourceShape()
    shape.saw((640, 480))
    assert not any(shape.saw(size) for _ in range(20))


def test_single_pictures_and_a_window_that_is_being_drawn_do_not_count() -> None:
    shape = SourceShape()
    shape.saw((640, 480))
    for number in range(40):
        assert not shape.saw((480, 640) if number % 3 else (640, 480))
    for number in range(40):
        assert not shape.saw((round(100 * 1.12**number), 480))
