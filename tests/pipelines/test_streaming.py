from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fake import FakePipeline, FakeState, restyle
from pipelines.streaming import StreamBatch, finish, sequential
from streamgen.core import Params, Pixels, Row

PARAMS = Params(prompt="ink", width=64, height=64)


class Watched(FakePipeline):
    """Notes (chunk, step) of the rows of every call to denoise."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[tuple[int, int]]] = []

    def denoise(self, rows: Sequence[Row[FakeState]]) -> list[Row[FakeState]]:
        self.calls.append([(row.latent.chunk, row.step) for row in rows])
        return super().denoise(rows)


def frames(value: int, count: int = 4) -> Pixels:
    return np.full((count, 64, 64, 3), value, np.uint8)


def new_row(pipeline: FakePipeline, state: FakeState, steps: int = 2, value: int = 0) -> Row[FakeState]:
    pipeline.update(state, replace(state.params, steps=steps))
    return pipeline.encode([(state, frames(value))])[0]


def chunks_of(rows: Sequence[Row[FakeState]]) -> list[int]:
    assert all(row.done for row in rows)
    return [row.latent.chunk for row in rows]


def test_sequential_runs_states_with_different_steps_as_one_batch() -> None:
    pipeline = Watched()
    few, many = replace(PARAMS, steps=1), replace(PARAMS, steps=3, seed=7)
    pixels = sequential(pipeline, [(pipeline.open(few), frames(1)), (pipeline.open(many), frames(2, count=3))])
    assert [len(call) for call in pipeline.calls] == [2, 1, 1]
    assert np.array_equal(pixels[0], restyle(frames(1), few, 0))
    assert np.array_equal(pixels[1], restyle(frames(2, count=3), many, 0))


def test_finish_of_nothing_is_nothing() -> None:
    pipeline = Watched()
    assert finish(pipeline, []) == []
    assert pipeline.calls == []


def test_stream_batch_runs_a_chunk_beside_the_next_ones_earlier_step() -> None:
    pipeline = Watched()
    batch, state = StreamBatch(pipeline), pipeline.open(PARAMS)
    done = [chunks_of(batch.advance([new_row(pipeline, state, steps=3)])) for _ in range(5)]
    assert done == [[], [], [0], [1], [2]]
    assert pipeline.calls == [
        [(0, 0)],
        [(0, 1), (1, 0)],
        [(0, 2), (1, 1), (2, 0)],
        [(1, 2), (2, 1), (3, 0)],
        [(2, 2), (3, 1), (4, 0)],
    ]
    assert batch.in_flight(state) == 2
    assert chunks_of(batch.drain([state])) == [3, 4]
    assert batch.in_flight(state) == 0
    assert batch.drain([state]) == []


def test_stream_batch_of_one_step_returns_at_once() -> None:
    pipeline = Watched()
    batch, state = StreamBatch(pipeline), pipeline.open(PARAMS)
    assert chunks_of(batch.advance([new_row(pipeline, state, steps=1)])) == [0]


def test_stream_batch_mixes_streams_and_only_runs_those_with_news() -> None:
    pipeline = Watched()
    batch, one, other = StreamBatch(pipeline), pipeline.open(PARAMS), pipeline.open(PARAMS)
    batch.advance([new_row(pipeline, one), new_row(pipeline, other)])
    done = batch.advance([new_row(pipeline, one)])
    assert [row.state is one for row in done] == [True]
    assert [len(call) for call in pipeline.calls] == [2, 2]
    assert batch.in_flight(other) == 1


def test_fewer_steps_do_not_overtake() -> None:
    pipeline = Watched()
    batch, state = StreamBatch(pipeline), pipeline.open(PARAMS)
    for _ in range(3):
        assert batch.advance([new_row(pipeline, state, steps=4)]) == []
    # steps left are 1, 2, 3: after two calls 1 is left of the last, beside which a row of 2 may begin
    assert chunks_of(batch.advance([new_row(pipeline, state, steps=2)])) == [0, 1, 2]
    assert chunks_of(batch.advance([new_row(pipeline, state, steps=1)])) == [3, 4]


def test_discard_forgets_one_stream() -> None:
    pipeline = Watched()
    batch, one, other = StreamBatch(pipeline), pipeline.open(PARAMS), pipeline.open(PARAMS)
    batch.advance([new_row(pipeline, one), new_row(pipeline, other)])
    batch.discard(one)
    batch.discard(one)
    assert [row.state is other for row in batch.drain([one, other])] == [True]


def test_two_new_rows_of_one_stream_are_refused() -> None:
    pipeline = Watched()
    batch, state = StreamBatch(pipeline), pipeline.open(PARAMS)
    with pytest.raises(ValueError, match="two new rows"):
        batch.advance([new_row(pipeline, state), new_row(pipeline, state)])


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(1, 4)), max_size=20))
def test_every_chunk_comes_out_once_and_in_order(arrivals: list[tuple[int, int]]) -> None:
    pipeline = FakePipeline()  # its checks of the order of rows take part
    batch, states = StreamBatch(pipeline), [pipeline.open(PARAMS), pipeline.open(replace(PARAMS, seed=1))]
    done: list[Row[FakeState]] = []
    for which, steps in arrivals:
        done += batch.advance([new_row(pipeline, states[which], steps)])
        assert batch.in_flight(states[which]) < steps
    done += batch.drain(states)
    for state in states:
        assert chunks_of([row for row in done if row.state is state]) == list(range(state.encoded))
    assert len(pipeline.decode(done)) == len(arrivals)
