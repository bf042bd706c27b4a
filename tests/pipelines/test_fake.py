from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.fake import FAKE_SPEC, FakeCost, FakePipeline, Fault, restyle
from pipelines.streaming import sequential
from streamgen.core import Params, Pixels
from streamgen.errors import ParamsError

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


@pytest.mark.parametrize("stage", ["open", "encode", "denoise", "decode"])
def test_faults_come_in_their_stage_and_for_their_prompt(stage: str) -> None:
    pipeline = FakePipeline(faults={"bad": Fault(stage), "refused": Fault(stage, "params")})  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=f"fault in {stage}"):
        sequential(pipeline, [(pipeline.open(replace(PARAMS, prompt="bad")), frames())])
    with pytest.raises(ParamsError, match=f"refusal in {stage}"):
        sequential(pipeline, [(pipeline.open(replace(PARAMS, prompt="refused")), frames())])
    sequential(pipeline, [(pipeline.open(PARAMS), frames())])
