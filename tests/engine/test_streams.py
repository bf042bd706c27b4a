from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.fake import FAKE_SPEC, FakeCost, FakePipeline, FakeState, Fault, Stage, restyle
from streamgen.core import Params, Pixels, Row
from streamgen.engine import ChunkDone, ChunkWork
from streamgen.engine.streams import Streams

PARAMS = Params(prompt="ink", width=64, height=64)
SPEC = replace(FAKE_SPEC, defaults=Params(width=64, height=64))


class Watched(FakePipeline):
    """Notes how many rows each denoising had, and which states are open."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"spec": SPEC, **options})
        self.calls: list[int] = []
        self.opened: list[FakeState] = []

    def open(self, params: Params) -> FakeState:
        self.opened.append(super().open(params))
        return self.opened[-1]

    def denoise(self, rows: Sequence[Row[FakeState]]) -> list[Row[FakeState]]:
        self.calls.append(len(rows))
        return super().denoise(rows)

    @property
    def open_states(self) -> int:
        return sum(not state.closed for state in self.opened)


def work(session: str, params: Params = PARAMS, tag: int = 0, **options: Any) -> ChunkWork:
    return ChunkWork(
        session, params, options.pop("first", False), list(source(session, tag, params)), tag=tag, **options
    )


def source(session: str, tag: int, params: Params = PARAMS, count: int = 4) -> Pixels:
    """Frames that no other session or tag has."""
    seed = [*session.encode(), tag]
    return np.random.default_rng(seed).integers(0, 256, (count, params.height, params.width, 3), np.uint8)


def expect(answer: ChunkDone, params: Params, chunk: int, tag: int | None = None) -> None:
    """`answer` is the result of this chunk of this session, and of nothing else."""
    assert answer.error is None
    assert answer.pixels is not None
    assert answer.tag == (chunk if tag is None else tag)
    assert np.array_equal(answer.pixels, restyle(source(answer.session, answer.tag, params), params, chunk))


def failed(answer: ChunkDone) -> tuple[str, bool]:
    assert answer.pixels is None
    assert answer.error is not None
    assert "\n" not in answer.error[1]
    return answer.error[0], answer.state_lost


def test_sessions_run_as_one_batch_and_keep_apart() -> None:
    pipeline = Watched()
    streams = Streams(pipeline)
    looks = {name: replace(PARAMS, prompt=name, seed=i) for i, name in enumerate("abc")}
    for i in range(3):
        answers = streams.run([work(name, params, i) for name, params in looks.items()])
        assert [answer.session for answer in answers] == ["a", "b", "c"]
        for answer in answers:
            expect(answer, looks[answer.session], i)
            assert answer.info == {"noise": PARAMS.noise}
    assert pipeline.calls == [3] * 6
    assert pipeline.open_states == 3


def test_parameters_change_without_a_cut() -> None:
    streams = Streams(Watched())
    streams.run([work("a")])
    expect(streams.run([work("a", replace(PARAMS, prompt="oil"), 1)])[0], replace(PARAMS, prompt="oil"), 1)


def test_first_size_and_close_begin_a_new_stream() -> None:
    pipeline = Watched()
    streams = Streams(pipeline)
    wide = replace(PARAMS, width=128)
    streams.run([work("a")])
    expect(streams.run([work("a", first=True, tag=7)])[0], PARAMS, 0, tag=7)
    expect(streams.run([work("a", wide)])[0], wide, 0)
    streams.close("a")
    streams.close("a")
    assert streams.sessions == []
    expect(streams.run([work("a", wide)])[0], wide, 0)
    assert pipeline.open_states == 1


def test_a_chunk_that_is_too_long_to_begin_a_stream_is_refused() -> None:
    streams = Streams(Watched(spec=replace(SPEC, first_chunk_frames=1)))
    assert failed(streams.run([work("a")])[0]) == ("state_lost", True)
    first = ChunkWork("a", PARAMS, first=True, pixels=tuple(source("a", 0, count=1)))
    assert streams.run([first])[0].error is None
    assert streams.run([work("a")])[0].error is None


def test_a_short_chunk_gives_as_many_frames() -> None:
    (answer,) = Streams(Watched()).run([ChunkWork("a", PARAMS, first=False, pixels=tuple(source("a", 0, count=3)))])
    assert answer.pixels is not None
    assert len(answer.pixels) == 3


@pytest.mark.parametrize("mode", ["sequential", "stream_batch"])
def test_stamp_copies_the_top_of_each_input_onto_its_own_output(mode: Any) -> None:
    streams = Streams(Watched())
    stamped = replace(PARAMS, stamp=True)
    answers = [answer for i in range(4) for answer in streams.run([work("a", stamped, i, mode=mode)])]
    assert len(answers) >= 3
    for i, answer in enumerate(answers):
        assert answer.pixels is not None
        assert np.array_equal(answer.pixels[:, :16], source("a", i)[:, :16])
        assert np.array_equal(answer.pixels[:, 16:], restyle(source("a", i), stamped, i)[:, 16:])


def test_stream_batch_answers_later_and_in_order() -> None:
    pipeline = Watched()
    streams = Streams(pipeline)
    params = replace(PARAMS, steps=3)
    tags = [[a.tag for a in streams.run([work("a", params, i, mode="stream_batch")])] for i in range(5)]
    assert tags == [[], [], [0], [1], [2]]
    assert pipeline.calls == [1, 2, 3, 3, 3]


def test_a_change_of_mode_finishes_what_is_in_flight() -> None:
    streams = Streams(Watched())
    params = replace(PARAMS, steps=4)
    for i in range(3):
        assert streams.run([work("a", params, i, mode="stream_batch")]) == []
    answers = streams.run([work("a", params, 3), work("b", params, 0)])
    assert [answer.tag for answer in answers if answer.session == "a"] == [0, 1, 2, 3]
    assert [answer.tag for answer in answers if answer.session == "b"] == [0]
    for answer in answers:
        expect(answer, params, answer.tag)


def test_a_stream_that_begins_anew_answers_for_what_was_in_flight() -> None:
    streams = Streams(Watched())
    streams.run([work("a", tag=5, mode="stream_batch")])
    lost, done = streams.run([work("a", tag=6, first=True)])
    assert (lost.tag, failed(lost)) == (5, ("state_lost", False))
    expect(done, PARAMS, 0, tag=6)


def test_closing_drops_what_was_in_flight_without_an_answer() -> None:
    streams = Streams(Watched())
    streams.run([work("a", tag=5, mode="stream_batch")])
    streams.close("a")
    assert streams.run([work("a", mode="stream_batch")]) == []
    expect(streams.run([work("a", tag=1, mode="stream_batch")])[0], PARAMS, 0)


@pytest.mark.parametrize("action", ["raise", "params"])
@pytest.mark.parametrize("stage", ["open", "update", "encode", "denoise", "decode"])
def test_one_sessions_fault_is_its_own(stage: Stage, action: Any) -> None:
    pipeline = Watched(faults={"bad": Fault(stage, action)})
    streams = Streams(pipeline)
    bad = replace(PARAMS, prompt="bad")
    if stage == "update":
        streams.run([work("b")])
    others = ["a", "c"]
    answers = {a.session: a for a in streams.run([work("a"), work("b", bad, 1), work("c")])}
    for name in others:
        expect(answers[name], PARAMS, 0)
    code = "bad_params" if action == "params" else "engine_failed"
    assert failed(answers["b"]) == (code, (stage, action) != ("update", "params"))
    # The next batch costs the others nothing: not a state, not a retry.
    calls = len(pipeline.calls)
    answers = {a.session: a for a in streams.run([work("a", tag=1), work("b", bad, 2), work("c", tag=1)])}
    for name in others:
        expect(answers[name], PARAMS, 1)
    if (stage, action) == ("update", "raise"):
        expect(answers["b"], bad, 0, tag=2)  # its new state opens with what the old one could not be updated to
        assert pipeline.calls[calls:] == [3, 3]
    else:
        assert failed(answers["b"])[0] == code
        assert pipeline.calls[calls : calls + 2] == [2, 2]
    # And the session itself goes on as soon as its parameters are good.
    (answer,) = streams.run([work("b", tag=3)])
    expect(answer, PARAMS, 1 if stage == "update" else 0, tag=3)
    assert pipeline.open_states == 3


def test_an_unexpected_fault_leaves_its_trace() -> None:
    streams = Streams(Watched(faults={"bad": Fault("denoise")}))
    streams.run([work("a"), work("b", replace(PARAMS, prompt="bad"))])
    assert [trace.splitlines()[-2] for trace in streams.traces] == ["RuntimeError: programmed fault in denoise"]
    streams.run([work("a", tag=1)])
    assert streams.traces == ()


def test_a_fault_answers_for_what_was_in_flight() -> None:
    streams = Streams(Watched(faults={"bad": Fault("denoise")}))
    streams.run([work("a", tag=0, mode="stream_batch")])
    answers = streams.run([work("a", replace(PARAMS, prompt="bad"), 1, mode="stream_batch")])
    assert [(answer.tag, failed(answer)) for answer in answers] == [
        (0, ("state_lost", True)),
        (1, ("engine_failed", True)),
    ]


def test_a_state_that_cannot_be_closed_does_not_keep_its_session() -> None:
    pipeline = Watched(faults={"bad": Fault("close")})
    streams = Streams(pipeline)
    streams.run([work("a", replace(PARAMS, prompt="bad"))])
    streams.close("a")
    expect(streams.run([work("a")])[0], PARAMS, 0)


def test_frames_are_copied() -> None:
    streams = Streams(Watched())
    pixels = source("a", 0)
    streams.run([ChunkWork("a", PARAMS, first=True, pixels=tuple(pixels), mode="stream_batch")])
    before = pixels.copy()
    pixels[:] = 0
    (answer,) = streams.run([work("a", tag=1, mode="stream_batch")])
    assert answer.pixels is not None
    assert np.array_equal(answer.pixels, restyle(before, PARAMS, 0))


def test_warm_up_runs_and_leaves_nothing() -> None:
    pipeline = Watched(spec=replace(SPEC, first_chunk_frames=1))
    streams = Streams(pipeline)
    assert set(streams.warm_up()) == {"encode", "denoise", "decode"}
    assert pipeline.opened[0].encoded == 3
    assert pipeline.open_states == 0
    assert streams.sessions == []


def test_warm_up_raises_what_the_pipeline_raises() -> None:
    pipeline = Watched(faults={"": Fault("decode")})
    with pytest.raises(RuntimeError, match="decode"):
        Streams(pipeline).warm_up()
    assert pipeline.open_states == 0


def test_times_are_those_of_the_stages() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    cost = FakeCost(encode_s=0.001, step_s=0.002, decode_s=0.004)
    streams = Streams(Watched(cost=cost, sleep=sleep), clock=lambda: now)
    (answer,) = streams.run([work("a")])
    assert answer.timings_ms == pytest.approx({"encode": 1, "denoise": 4, "decode": 4})
