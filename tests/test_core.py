from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgen.core import MAX_PROMPT_CHARACTERS, Frame, Params, PipelineSpec
from streamgen.errors import ParamsError

SPEC = PipelineSpec("x", 4, 5, 16, 640 * 480, 16.0, 0, Params())


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": "2"}, "steps"),
        ({"noise": 1.01}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"noise": float("inf")}, "noise"),
        ({"noise": 10**400}, "noise"),
        ({"seed": -1}, "seed"),
        ({"seed": 10**400}, "seed"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}, "prompt"),
        ({"prompt": "broken \ud800"}, "prompt"),
        ({"stamp": 1}, "stamp"),
        ({"fit": "stretch"}, "fit"),
        ({"fit": "x" * 10**6}, "fit"),
        ({"fit": 1}, "fit"),
        ({"fit": None}, "fit"),
        ({"colour": 1}, "colour"),
    ],
)
def test_bad_values_are_refused_by_name(values: dict[str, object], field: str) -> None:
    with pytest.raises(ParamsError) as caught:
        Params.parse(values)
    assert caught.value.field == field


def test_numbers_may_be_written_either_way() -> None:
    assert Params.parse({"noise": 1, "steps": 3.0}) == Params(noise=1.0, steps=3)


def test_defaults_fill_what_is_not_given() -> None:
    assert Params.parse({"prompt": "ink"}, Params(steps=4)) == Params(prompt="ink", steps=4)


json_leaves = st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters())
json_values = (
    json_leaves | st.lists(json_leaves, max_size=3) | st.dictionaries(st.text(), st.lists(json_leaves), max_size=3)
)


@given(st.dictionaries(st.sampled_from(list(Params().as_dict())) | st.text(), json_values))
def test_whatever_comes_is_taken_or_refused(values: dict[str, object]) -> None:
    try:
        params = Params.parse(values)
    except ParamsError:
        return
    assert Params.parse(json.loads(json.dumps(params.as_dict()))) == params


def test_the_schema_says_what_is_checked() -> None:
    schema = Params(steps=3).schema()
    properties = schema["properties"]
    assert isinstance(properties, dict)
    assert set(properties) == set(Params().as_dict())
    assert properties["steps"]["default"] == 3
    assert (properties["steps"]["minimum"], properties["steps"]["maximum"]) == (1, 4)
    assert (properties["fit"]["default"], properties["fit"]["enum"]) == ("cover", ["cover", "contain"])
    assert "enum" not in properties["prompt"]
    json.dumps(schema)


def test_a_choice_that_there_is_not_is_answered_with_those_there_are() -> None:
    with pytest.raises(ParamsError, match="fit: must be cover or contain, not stretch") as caught:
        Params.parse({"fit": "stretch"})
    assert len(caught.value.message) < 80
    assert Params.parse({"fit": "contain"}).fit == "contain"


def test_a_pipeline_refuses_sizes_it_cannot_run() -> None:
    SPEC.check(Params(width=640, height=480))
    for width, height in ((648, 480), (640, 472), (640, 496)):
        with pytest.raises(ParamsError, match=r"width|height"):
            SPEC.check(Params(width=width, height=height))


def test_a_first_chunk_has_its_own_length() -> None:
    assert (SPEC.frames_wanted(first=True), SPEC.frames_wanted(first=False)) == (5, 4)


def test_media_time_is_in_seconds() -> None:
    frame = Frame(0, 45000, Fraction(1, 90000), 0.0, 1.0, np.zeros((1, 1, 3), np.uint8))
    assert frame.media_time == 0.5


def test_a_stream_state_grows_with_pixels_and_steps() -> None:
    spec = replace(SPEC, bytes_per_session=100, bytes_per_step=50)  # at 320x192 and two steps
    assert spec.states(Params()) == 1.0
    assert spec.states(Params(steps=4)) == 2.0
    assert spec.states(Params(steps=1)) == 0.5
    assert spec.states(Params(width=640)) == 2.0
    assert SPEC.states(Params(steps=4)) == 1.0
