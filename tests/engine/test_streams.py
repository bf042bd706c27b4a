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


def run(streams: Streams[FakeState], chunks: Sequence[ChunkWork]) -> list[ChunkDone]:
    return streams.run(chunks).chunks


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
        answers = run(streams, [work(name, params, i) for name, params in looks.items()])
        assert [answer.session for answer in answers] == ["a", "b", "c"]
        for answer in answers:
            expect(answer, looks[answer.session], i)
            assert answer.info == {"noise": PARAMS.noise}
    assert pipeline.calls == [3] * 6
    assert pipeline.open_states == 3


def test_parameters_change_without_a_cut() -> None:
    streams = Streams(Watched())
    run(streams, [work("a")])
    expect(run(streams, [work("a", replace(PARAMS, prompt="oil"), 1)])[0], replace(PARAMS, prompt="oil"), 1)


def test_another_vae_begins_a_new_stream() -> None:
    streams, light = Streams(Watched(spec=replace(SPEC, light_vae=True))), replace(PARAMS, vae="light")
    run(streams, [work("a")])
    expect(run(streams, [work("a", light)])[0], light, 0)


def test_first_size_and_close_begin_a_new_stream() -> None:
    pipeline = Watched()
    streams = Streams(pipeline)
    wide = replace(PARAMS, width=128)
    run(streams, [work("a")])
    expect(run(streams, [work("a", first=True, tag=7)])[0], PARAMS, 0, tag=7)
    expect(run(streams, [work("a", wide)])[0], wide, 0)
    streams.close("a")
    streams.close("a")
    assert streams.sessions == []
    expect(run(streams, [work("a", wide)])[0], wide, 0)
    assert pipeline.open_states == 1


def test_a_chunk_that_is_too_long_to_begin_a_stream_is_refused() -> None:
    streams = Streams(Watched(spec=replace(SPEC, first_chunk_frames=1)))
    assert failed(run(streams, [work("a")])[0]) == ("state_lost", True)
    first = ChunkWork("a", PARAMS, first=True, pixels=tuple(source("a", 0, count=1)))
    assert run(streams, [first])[0].error is None
    assert run(streams, [work("a")])[0].error is None


def test_a_short_chunk_gives_as_many_frames() -> None:
    (answer,) = run(Streams(Watched()), [ChunkWork("a", PARAMS, first=False, pixels=tuple(source("a", 0, count=3)))])
    assert answer.pixels is not None
    assert len(answer.pixels) == 3


@pytest.mark.parametrize("mode", ["sequential", "stream_batch"])
def test_stamp_copies_the_top_of_each_input_onto_its_own_output(mode: Any) -> None:
    streams = Streams(Watched())
    stamped = replace(PARAMS, stamp=True)
    answers = [answer for i in range(4) for answer in run(streams, [work("a", stamped, i, mode=mode)])]
    assert len(answers) >= 3
    for i, answer in enumerate(answers):
        assert answer.pixels is not None
        assert np.array_equal(answer.pixels[:, :16], source("a", i)[:, :16])
        assert np.array_equal(answer.pixels[:, 16:], restyle(source("a", i), stamped, i)[:, 16:])


def test_stream_batch_answers_later_and_in_order() -> None:
    pipeline = Watched()
    streams = Streams(pipeline)
    params = replace(PARAMS, steps=3)
    tags = [[a.tag for a in run(streams, [work("a", params, i, mode="stream_batch")])] for i in range(5)]
    assert tags == [[], [], [0], [1], [2]]
    assert pipeline.calls == [1, 2, 3, 3, 3]


def test_a_change_of_mode_finishes_what_is_in_flight() -> None:
    streams = Streams(Watched())
    params = replace(PARAMS, steps=4)
    for i in range(3):
        assert run(streams, [work("a", params, i, mode="stream_batch")]) == []
    answers = run(streams, [work("a", params, 3), work("b", params, 0)])
    assert [answer.tag for answer in answers if answer.session == "a"] == [0, 1, 2, 3]
    assert [answer.tag for answer in answers if answer.session == "b"] == [0]
    for answer in answers:
        expect(answer, params, answer.tag)


def test_a_stream_that_begins_anew_answers_for_what_was_in_flight() -> None:
    streams = Streams(Watched())
    run(streams, [work("a", tag=5, mode="stream_batch")])
    lost, done = run(streams, [work("a", tag=6, first=True)])
    assert (lost.tag, failed(lost)) == (5, ("state_lost", False))
    expect(done, PARAMS, 0, tag=6)


def test_closing_drops_what_was_in_flight_without_an_answer() -> None:
    streams = Streams(Watched())
    run(streams, [work("a", tag=5, mode="stream_batch")])
    streams.close("a")
    assert run(streams, [work("a", mode="stream_batch")]) == []
    expect(run(streams, [work("a", tag=1, mode="stream_batch")])[0], PARAMS, 0)


@pytest.mark.parametrize("action", ["raise", "params"])
@pytest.mark.parametrize("stage", ["open", "update", "encode", "denoise", "decode"])
def test_one_sessions_fault_is_its_own(stage: Stage, action: Any) -> None:
    pipeline = Watched(faults={"bad": Fault(stage, action)})
    streams = Streams(pipeline)
    bad = replace(PARAMS, prompt="bad")
    if stage == "update":
        run(streams, [work("b")])
    others = ["a", "c"]
    answers = {a.session: a for a in run(streams, [work("a"), work("b", bad, 1), work("c")])}
    for name in others:
        expect(answers[name], PARAMS, 0)
    code = "bad_params" if action == "params" else "engine_failed"
    assert failed(answers["b"]) == (code, (stage, action) != ("update", "params"))
    # The next batch costs the others nothing: not a state, not a retry.
    calls = len(pipeline.calls)
    answers = {a.session: a for a in run(streams, [work("a", tag=1), work("b", bad, 2), work("c", tag=1)])}
    for name in others:
        expect(answers[name], PARAMS, 1)
    if (stage, action) == ("update", "raise"):
        expect(answers["b"], bad, 0, tag=2)  # its new state opens with what the old one could not be updated to
        assert pipeline.calls[calls:] == [3, 3]
    else:
        assert failed(answers["b"])[0] == code
        assert pipeline.calls[calls : calls + 2] == [2, 2]
    # And the session itself goes on as soon as its parameters are good.
    (answer,) = run(streams, [work("b", tag=3)])
    expect(answer, PARAMS, 1 if stage == "update" else 0, tag=3)
    assert pipeline.open_states == 3


def test_an_unexpected_fault_leaves_its_trace() -> None:
    streams = Streams(Watched(faults={"bad": Fault("denoise")}))
    run(streams, [work("a"), work("b", replace(PARAMS, prompt="bad"))])
    assert [trace.splitlines()[-2] for trace in streams.traces()] == ["RuntimeError: programmed fault in denoise"]
    run(streams, [work("a", tag=1)])
    assert streams.traces() == ()


def test_a_fault_answers_for_what_was_in_flight() -> None:
    streams = Streams(Watched(faults={"bad": Fault("denoise")}))
    run(streams, [work("a", tag=0, mode="stream_batch")])
    answers = run(streams, [work("a", replace(PARAMS, prompt="bad"), 1, mode="stream_batch")])
    assert [(answer.tag, failed(answer)) for answer in answers] == [
        (0, ("state_lost", True)),
        (1, ("engine_failed", True)),
    ]


def test_a_state_that_cannot_be_closed_does_not_keep_its_session() -> None:
    pipeline = Watched(faults={"bad": Fault("close")})
    streams = Streams(pipeline)
    run(streams, [work("a", replace(PARAMS, prompt="bad"))])
    streams.close("a")
    expect(run(streams, [work("a")])[0], PARAMS, 0)


def test_frames_are_copied() -> None:
    streams = Streams(Watched())
    pixels = source("a", 0)
    run(streams, [ChunkWork("a", PARAMS, first=True, pixels=tuple(pixels), mode="stream_batch")])
    before = pixels.copy()
    pixels[:] = 0
    (answer,) = run(streams, [work("a", tag=1, mode="stream_batch")])
    assert answer.pixels is not None
    assert np.array_equal(answer.pixels, restyle(before, PARAMS, 0))


@pytest.mark.parametrize("others", [[], [work("b")]])
def test_a_chunk_without_frames_finishes_what_is_in_flight(others: list[ChunkWork]) -> None:
    pipeline = Watched()
    streams = Streams(pipeline)
    params = replace(PARAMS, steps=4)
    flush = ChunkWork("a", params, first=False, pixels=(), tag=9)
    assert run(streams, [flush, *others])[len(others) :] == []  # there is nothing: not even a state
    assert len(pipeline.opened) == len(others)
    for i in range(3):
        run(streams, [work("a", params, i, mode="stream_batch")])
    others = [replace(other, tag=1, pixels=list(source("b", 1))) for other in others]
    answers = run(streams, [flush, *others])
    assert [answer.tag for answer in answers if answer.session == "a"] == [0, 1, 2]
    assert [answer.tag for answer in answers if answer.session == "b"] == [1] * len(others)
    for answer in answers:
        expect(answer, params if answer.session == "a" else PARAMS, answer.tag)
    assert run(streams, [flush]) == []
    expect(run(streams, [work("a", params, 3)])[0], params, 3)  # the stream went on


def test_a_flush_that_fails_answers_for_what_was_in_flight_alone() -> None:
    streams = Streams(Watched(faults={"bad": Fault("decode")}))
    bad = replace(PARAMS, prompt="bad")
    run(streams, [work("a", bad, 5, mode="stream_batch")])
    (answer,) = run(streams, [ChunkWork("a", bad, first=False, pixels=(), tag=9)])
    assert (answer.tag, failed(answer)) == (5, ("state_lost", True))


def test_a_failed_flush_costs_the_others_of_its_batch_nothing() -> None:
    streams = Streams(Watched(faults={"bad": Fault("decode")}))
    bad = replace(PARAMS, prompt="bad")
    run(streams, [work("a", bad, 5, mode="stream_batch"), work("b", mode="stream_batch", tag=0)])
    answers = run(streams, [ChunkWork("a", bad, first=False, pixels=(), tag=9), work("c")])
    assert [(answer.session, answer.tag) for answer in answers] == [("a", 5), ("c", 0)]
    expect(answers[1], PARAMS, 0)


def test_times_are_those_of_the_stages_and_count_the_work() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    cost = FakeCost(encode_s=0.001, call_s=0.5, step_s=0.002, decode_s=0.004)
    streams = Streams(Watched(cost=cost, sleep=sleep), clock=lambda: now)
    done = streams.run([work("a"), work("b", replace(PARAMS, steps=1))])
    assert done.times is not None
    times = done.times
    assert (times.encode, times.denoise, times.decode) == pytest.approx((0.002, 1.006, 0.008))
    assert times.transfer == 0.0
    assert (times.chunks, times.calls, times.rows, times.decoded) == (2, 2, 3, 2)


def test_times_of_a_stream_batch_count_what_is_decoded_when_it_is() -> None:
    streams = Streams(Watched())
    times = [streams.run([work("a", tag=i, mode="stream_batch")]).times for i in range(2)]
    times.append(streams.run([ChunkWork("a", PARAMS, first=False, pixels=())]).times)
    assert [(one.chunks, one.calls, one.rows, one.decoded) for one in times if one] == [
        (1, 1, 1, 0),
        (1, 1, 2, 1),
        (0, 1, 1, 1),
    ]
    assert times[0] is not None
    assert times[0].decode == 0.0


def test_a_batch_has_no_times_where_a_chunk_failed_or_was_run_alone() -> None:
    streams = Streams(Watched(faults={"bad": Fault("denoise"), "closing": Fault("update", "params")}))
    bad = replace(PARAMS, prompt="bad")
    assert streams.run([work("a"), work("b", bad)]).times is None
    assert streams.run([work("b", bad)]).times is None
    assert streams.run([work("a", replace(PARAMS, prompt="closing"), 1)]).times is None
    assert streams.run([work("a", tag=2)]).times is not None


def test_a_batch_has_no_times_where_only_running_it_again_went_well() -> None:
    class Once(Watched):
        faulty = True

        def denoise(self, rows: Sequence[Row[FakeState]]) -> list[Row[FakeState]]:
            if self.faulty:
                self.faulty = False
                raise RuntimeError("once")
            return super().denoise(rows)

    done = Streams(Once()).run([work("a"), work("b")])
    for answer in done.chunks:
        expect(answer, PARAMS, 0)
    assert len(done.chunks) == 2
    assert done.times is None


def test_batches_may_be_in_different_stages() -> None:
    streams = Streams(Watched())
    first = streams.encode(lambda: [work("a")])
    second = streams.encode(lambda: [work("b")])
    streams.denoise(first)
    third = streams.encode(lambda: [work("c")])
    streams.denoise(second)
    for batch, session in ((first, "a"), (second, "b")):
        (answer,) = streams.decode(batch).chunks
        assert answer.session == session
        expect(answer, PARAMS, 0)
    streams.denoise(third)
    expect(streams.decode(third).chunks[0], PARAMS, 0)


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_a_fault_leaves_batches_in_other_stages_alone(stage: Stage) -> None:
    pipeline = Watched(faults={"bad": Fault(stage)})
    streams = Streams(pipeline)
    run(streams, [work("a"), work("c"), work("d")])
    before = streams.encode(lambda: [work("a", tag=1)])
    streams.denoise(before)
    broken = streams.encode(lambda: [work("b", replace(PARAMS, prompt="bad")), work("c", tag=1)])
    after = streams.encode(lambda: [work("d", tag=1)])
    expect(streams.decode(before).chunks[0], PARAMS, 1)
    streams.denoise(broken)
    streams.denoise(after)
    answers = {answer.session: answer for answer in streams.decode(broken).chunks}
    assert failed(answers["b"]) == ("engine_failed", True)
    expect(answers["c"], PARAMS, 0, tag=1)  # on a fresh state
    done = streams.decode(after)
    expect(done.chunks[0], PARAMS, 1)
    assert done.times is not None
    assert pipeline.open_states == 3


def test_a_stream_that_is_closed_while_a_batch_uses_it_is_closed_with_the_batch() -> None:
    pipeline = Watched()
    streams = Streams(pipeline)
    batch = streams.encode(lambda: [work("a"), work("b")])
    streams.close("a")
    assert pipeline.open_states == 2
    second = streams.encode(lambda: [work("a", tag=7, first=True)])  # a fresh state beside it
    streams.denoise(batch)
    assert pipeline.calls == [1, 1]  # nothing is done for it any more
    (answer,) = streams.decode(batch).chunks  # the other one gets no answer
    assert answer.session == "b"
    assert pipeline.open_states == 2
    streams.denoise(second)
    expect(streams.decode(second).chunks[0], PARAMS, 0, tag=7)
    expect(run(streams, [work("a", tag=1)])[0], PARAMS, 1)


def test_what_is_forgotten_before_it_is_decoded_is_not_decoded() -> None:
    pipeline = Watched()
    streams = Streams(pipeline)
    batch = streams.encode(lambda: [work("a"), work("b")])
    streams.denoise(batch)
    streams.close("a")
    done = streams.decode(batch)
    assert [answer.session for answer in done.chunks] == ["b"]
    assert [(state.decoded, state.closed) for state in pipeline.opened] == [(0, True), (1, False)]
    assert done.times is not None
    assert (done.times.chunks, done.times.decoded) == (2, 1)


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_a_chunk_that_was_forgotten_is_not_run_again(stage: Stage) -> None:
    pipeline = Watched(faults={"bad": Fault(stage)})
    streams = Streams(pipeline)
    broken = streams.encode(lambda: [work("b", replace(PARAMS, prompt="bad")), work("a")])
    streams.close("a")
    second = streams.encode(lambda: [work("a", tag=7, first=True)])
    streams.denoise(broken)
    assert [answer.session for answer in streams.decode(broken).chunks] == ["b"]
    streams.denoise(second)
    expect(streams.decode(second).chunks[0], PARAMS, 0, tag=7)
    assert streams.sessions == ["a"]
    assert len(pipeline.opened) == 4  # in one batch, of the new life, and once more of the bad one
    assert pipeline.open_states == 1


class Interrupted(Watched):
    """A session is closed in the middle of a call for the prompt "bad"."""

    def __init__(self, stage: Stage, **options: Any) -> None:
        super().__init__(**options)
        self.streams = Streams(self)
        self._stage = stage
        self.closes: list[str] = []

    def open(self, params: Params) -> FakeState:
        self._interrupt("open", params)
        return super().open(params)

    def denoise(self, rows: Sequence[Row[FakeState]]) -> list[Row[FakeState]]:
        self._interrupt("denoise", rows[0].latent.params)
        return super().denoise(rows)

    def decode(self, rows: Sequence[Row[FakeState]]) -> list[Pixels]:
        self._interrupt("decode", rows[0].latent.params)
        return super().decode(rows)

    def _interrupt(self, stage: Stage, params: Params) -> None:
        if stage == self._stage and params.prompt == "bad" and self.closes:
            self.streams.close(self.closes.pop())


def test_a_session_that_fails_when_it_was_closed_is_not_remembered() -> None:
    pipeline = Interrupted("denoise", faults={"bad": Fault("denoise")})
    pipeline.closes = ["a"]
    assert run(pipeline.streams, [work("a", replace(PARAMS, prompt="bad"))]) == []
    assert pipeline.closes == []
    assert pipeline.streams._alone == {}
    assert pipeline.open_states == 0


def test_a_chunk_that_is_forgotten_while_it_is_decoded_gets_no_answer() -> None:
    pipeline = Interrupted("decode")
    pipeline.closes = ["a"]
    bad = replace(PARAMS, prompt="bad")
    (answer,) = run(pipeline.streams, [work("a", bad), work("b", bad)])
    assert answer.session == "b"
    assert pipeline.open_states == 1


def test_a_chunk_that_is_forgotten_while_it_is_run_again_leaves_nothing() -> None:
    """Batch [a, b] fails; while b opens its fresh state its session is closed."""
    pipeline = Interrupted("open", faults={"fails": Fault("encode")})
    batch = pipeline.streams.encode(
        lambda: [work("a", replace(PARAMS, prompt="fails")), work("b", replace(PARAMS, prompt="bad"))]
    )
    pipeline.closes = ["b"]
    pipeline.streams.denoise(batch)
    (answer,) = pipeline.streams.decode(batch).chunks
    assert answer.session == "a"
    assert pipeline.closes == []
    assert pipeline.streams.sessions == []
    assert pipeline.open_states == 0


def test_what_is_asked_for_at_the_last_moment_is_what_runs() -> None:
    pipeline = Watched()
    streams = Streams(pipeline)
    batch = streams.encode(list)
    streams.denoise(batch)
    assert streams.decode(batch).chunks == []
    assert pipeline.calls == []
