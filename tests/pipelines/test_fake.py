from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.fake import FAKE_SPEC, FakeCost, FakeLatent, FakePipeline, FakeState, Fault, restyle
from pipelines.streaming import sequential
from streamgen.core import Params, Pixels, Row
from streamgen.errors import DeviceLostError, ParamsError

PARAMS = Params(prompt="ink", width=64, height=64)


def frames(count: int = 4, value: int = 0) -> Pixels:
    return np.full((count, 64, 64, 3), value, np.uint8) + np.arange(64, dtype=np.uint8)[:, None]


def test_output_is_restyle_with_a_count_of_chunks() -> None:
    pipeline = FakePipeline()
    state = pipeline.open(PARAMS)
    for i in range(3):
        (pixels,) = sequential(pipeline, [(state, frames(value=i))])
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, restyle(frames(value=i), PARAMS, i))


def test_output_tells_prompts_seeds_and_chunks_apart() -> None:
    looks = [
        restyle(frames(), params, chunk).tobytes()
        for params in (PARAMS, replace(PARAMS, prompt="oil"), replace(PARAMS, seed=1))
        for chunk in range(3)
    ]
    assert len(set(looks)) == len(looks)


def test_new_parameters_hold_from_the_next_chunk_on() -> None:
    pipeline = FakePipeline()
    state = pipeline.open(PARAMS)
    rows = pipeline.encode([(state, frames())])
    pipeline.update(state, replace(PARAMS, prompt="oil", steps=1))
    while not rows[0].done:
        rows = pipeline.denoise(rows)
    assert np.array_equal(pipeline.decode(rows)[0], restyle(frames(), PARAMS, 0))
    (pixels,) = sequential(pipeline, [(state, frames())])
    assert np.array_equal(pixels, restyle(frames(), replace(PARAMS, prompt="oil"), 1))


def test_a_new_size_needs_a_new_state() -> None:
    pipeline = FakePipeline()
    state = pipeline.open(PARAMS)
    with pytest.raises(ParamsError, match="width"):
        pipeline.update(state, replace(PARAMS, width=128))


def test_open_refuses_what_the_spec_rules_out() -> None:
    with pytest.raises(ParamsError, match="multiple of 16"):
        FakePipeline().open(replace(PARAMS, height=72))


@pytest.mark.parametrize("shape", [(5, 64, 64, 3), (0, 64, 64, 3), (4, 64, 80, 3)])
def test_encode_refuses_frames_of_another_shape(shape: tuple[int, ...]) -> None:
    pipeline = FakePipeline()
    with pytest.raises(ValueError, match="shape"):
        pipeline.encode([(pipeline.open(PARAMS), np.zeros(shape, np.uint8))])


def test_first_chunk_may_be_of_another_length() -> None:
    pipeline = FakePipeline(replace(FAKE_SPEC, first_chunk_frames=1))
    state = pipeline.open(PARAMS)
    with pytest.raises(ValueError, match="shape"):
        pipeline.encode([(state, frames(4))])
    assert [len(sequential(pipeline, [(state, frames(n))])[0]) for n in (1, 4, 3)] == [1, 4, 3]


def test_rows_out_of_the_order_of_time_are_an_error() -> None:
    pipeline = FakePipeline()
    state = pipeline.open(replace(PARAMS, steps=1))
    rows = pipeline.encode([(state, frames())]) + pipeline.encode([(state, frames())])
    with pytest.raises(ValueError, match="order"):
        pipeline.denoise(rows[::-1])
    done = pipeline.denoise(rows)
    with pytest.raises(ValueError, match="chunk 1"):
        pipeline.decode([done[1]])
    with pytest.raises(ValueError, match="done"):
        pipeline.denoise(done)


def test_a_closed_state_cannot_be_used() -> None:
    pipeline = FakePipeline()
    state = pipeline.open(PARAMS)
    pipeline.close(state)
    pipeline.close(state)
    with pytest.raises(ValueError, match="closed"):
        pipeline.encode([(state, frames())])


def test_work_takes_the_programmed_time() -> None:
    slept: list[float] = []
    pipeline = FakePipeline(cost=FakeCost(encode_s=1, call_s=10, step_s=100, decode_s=1000), sleep=slept.append)
    sequential(pipeline, [(pipeline.open(PARAMS), frames()), (pipeline.open(PARAMS), frames())])
    assert slept == [2, 210, 210, 2000]


def test_a_call_and_a_lighter_vae_have_costs_of_their_own() -> None:
    slept: list[float] = []
    cost = FakeCost(encode_s=1, encode_call_s=10, decode_s=100, decode_call_s=1000, light_decode_s=20)
    pipeline = FakePipeline(replace(FAKE_SPEC, light_vae=True), cost, sleep=slept.append)
    light = replace(PARAMS, vae="light")
    sequential(pipeline, [(pipeline.open(params), frames()) for params in (PARAMS, light, light)])
    assert slept == [13, 1140]


def test_costs_may_follow_the_size() -> None:
    slept: list[float] = []
    cost = FakeCost(encode_s=1, call_s=1000, step_s=10, decode_s=100, decode_call_s=3000, per_pixel=True)
    spec = replace(FAKE_SPEC, defaults=replace(PARAMS, steps=1))
    pipeline = FakePipeline(spec, cost, sleep=slept.append)
    wide = replace(spec.defaults, width=192)
    chunks = [(spec.defaults, frames()), (wide, np.zeros((4, 64, 192, 3), np.uint8))]
    sequential(pipeline, [(pipeline.open(params), pixels) for params, pixels in chunks])
    assert slept == [1 + 3, 1000 + 10 + 30, 3000 + 100 + 300]


STAGES = ["open", "update", "encode", "denoise", "decode", "close"]


def call(pipeline: FakePipeline, stage: str, state: FakeState) -> None:
    row = Row(state, FakeLatent(frames(), state.params, state.decoded), None, 1, 2, 0.5, 4)
    match stage:
        case "open":
            pipeline.open(PARAMS)
        case "update":
            pipeline.update(state, PARAMS)
        case "encode":
            pipeline.encode([(state, frames())])
        case "denoise":
            pipeline.denoise([row])
        case "decode":
            pipeline.decode([replace(row, step=2)])
        case "close":
            pipeline.close(state)


@pytest.mark.parametrize("inner", STAGES)
@pytest.mark.parametrize("outer", ["encode", "denoise", "decode"])
def test_what_the_protocol_says_of_threads_is_checked(outer: str, inner: str) -> None:
    """While `outer` sleeps with one state, `inner` is called with another, and with the same one."""
    outcomes: list[str] = []
    asked: list[FakeState] = []

    def sleep(_: float) -> None:
        while asked:
            try:
                call(pipeline, inner, asked.pop())
                outcomes.append("")
            except ValueError as error:
                outcomes.append(str(error))

    pipeline = FakePipeline(cost=FakeCost(encode_call_s=1, call_s=1, decode_call_s=1), sleep=sleep)
    one, other = pipeline.open(PARAMS), pipeline.open(PARAMS)
    for state in (one, other):
        asked[:] = [state]
        call(pipeline, outer, one)
    entering = "encode" if inner in ("open", "update", "close") else inner
    same_line = f"{entering} was called while a call of it ran"
    if entering == outer:
        assert outcomes == [same_line, same_line]
    elif inner == "open":
        assert outcomes == ["", ""]
    else:
        assert outcomes == [f"{entering} was called with a state that another stage was using", ""]
    call(pipeline, outer, one)  # a refused call leaves nothing behind


@pytest.mark.parametrize("stage", ["open", "encode", "denoise", "decode"])
def test_faults_come_in_their_stage_and_for_their_prompt(stage: Any) -> None:
    actions: list[tuple[str, Any]] = [("bad", "raise"), ("refused", "params"), ("lost", "lose")]
    faults = {name: Fault(stage, action) for name, action in actions}
    pipeline = FakePipeline(faults=faults)
    with pytest.raises(RuntimeError, match=f"fault in {stage}"):
        sequential(pipeline, [(pipeline.open(replace(PARAMS, prompt="bad")), frames())])
    with pytest.raises(ParamsError, match=f"refusal in {stage}"):
        sequential(pipeline, [(pipeline.open(replace(PARAMS, prompt="refused")), frames())])
    with pytest.raises(DeviceLostError, match=f"loss in {stage}"):
        sequential(pipeline, [(pipeline.open(replace(PARAMS, prompt="lost")), frames())])
    sequential(pipeline, [(pipeline.open(PARAMS), frames())])
