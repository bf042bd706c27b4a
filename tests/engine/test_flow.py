from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.fake import FAKE_SPEC, FakeCost, FakeState, Fault, restyle
from pipelines.fake_flow import FakeFlow
from streamgen.core import Arrived, Params, Pixels
from streamgen.engine import BatchDone, ChunkDone, ChunkWork
from streamgen.engine.flow import FlowStreams
from streamgen.engine.messages import Run
from streamgen.errors import DeviceLostError

PARAMS = Params(prompt="ink", width=64, height=64)
LONG = replace(PARAMS, steps=4, prompt="long")
SHORT = replace(PARAMS, steps=1)
SPEC = replace(FAKE_SPEC, defaults=PARAMS, stages=3, flight=4)
WAIT_S = 20.0


class Watched(FakeFlow):
    """Notes its states, and holds chosen prompts back on the first stage until they are let go."""

    def __init__(self, *held: str, **options: Any) -> None:
        super().__init__(**{"spec": SPEC, **options})
        self.states: list[FakeState] = []
        self.batches: list[int] = []
        self.free = threading.Event()
        self.reached = threading.Semaphore(0)
        self._held = held

    def open(self, params: Params) -> FakeState:
        self.states.append(super().open(params))
        return self.states[-1]

    def send(self, chunks: Sequence[tuple[FakeState, Pixels]], arrived: Callable[[Arrived], None]) -> None:
        super().send(chunks, arrived)
        self.batches.append(len(chunks))

    def _stumble(self, stage: Any, params: Params) -> None:
        if stage == "encode" and params.prompt in self._held:
            self.reached.release()
            assert self.free.wait(WAIT_S)
        super()._stumble(stage, params)

    @property
    def open_states(self) -> int:
        return sum(not state.closed for state in self.states)


class Answered:
    """A job's answers, its times and the tracebacks that came with it."""

    def __init__(self, job: int, done: BatchDone, traces: tuple[str, ...]) -> None:
        self.job, self.done, self.traces = job, done, traces

    @property
    def errors(self) -> dict[str, tuple[str, bool]]:
        """Code, and whether the state is lost, by session."""
        return {answer.session: (answer.error[0], answer.state_lost) for answer in self.done.chunks if answer.error}


class Desk:
    """FlowStreams with what they need, and what they say."""

    def __init__(self, flow: FakeFlow, **options: Any) -> None:
        self.flow = flow
        self.checks = 0
        self.woken = threading.Semaphore(0)
        self._answers: queue.Queue[Answered] = queue.Queue()
        self._jobs = itertools.count()
        self.streams = FlowStreams(flow, self._answer, self.woken.release, self._check, **options)

    def send(self, *chunks: ChunkWork) -> int:
        job = next(self._jobs)
        self.streams.send(Run(job, (), ()), chunks)
        return job

    def next(self) -> Answered:
        return self._answers.get(timeout=WAIT_S)

    def some(self, count: int) -> dict[int, Answered]:
        return {answered.job: answered for answered in (self.next() for _ in range(count))}

    @property
    def silent(self) -> bool:
        return self._answers.empty()

    def tended(self) -> None:
        """As the worker does, when it is woken."""
        assert self.woken.acquire(timeout=WAIT_S)
        self.streams.tend()

    def _answer(self, run: Run, done: BatchDone, traces: tuple[str, ...]) -> None:
        self._answers.put(Answered(run.job, done, traces))

    def _check(self) -> None:
        self.checks += 1


@contextmanager
def desk(*held: str, clock: Callable[[], float] | None = None, **options: Any) -> Iterator[tuple[Desk, Any]]:
    """A desk and its pipeline."""
    flow = Watched(*held, **options)
    made = Desk(flow, **({} if clock is None else {"clock": clock}))
    try:
        with made.streams:
            yield made, flow
    finally:
        flow.end()


def source(session: str, tag: int, params: Params = PARAMS, count: int = 4) -> Pixels:
    """Frames that no other session or tag has."""
    return np.random.default_rng([*session.encode(), tag]).integers(
        0, 256, (count, params.height, params.width, 3), np.uint8
    )


def work(session: str, tag: int = 0, params: Params = PARAMS, **options: Any) -> ChunkWork:
    first = options.pop("first", False)
    return ChunkWork(session, params, first, list(source(session, tag, params)), tag=tag, **options)


def named(prompt: str) -> Params:
    return replace(PARAMS, prompt=prompt)


def expect(answer: ChunkDone, params: Params = PARAMS, chunk: int | None = None) -> None:
    """`answer` is the result of this chunk of its stream (the one of its tag) and of nothing else."""
    assert answer.error is None
    assert answer.pixels is not None
    number = answer.tag if chunk is None else chunk
    assert np.array_equal(answer.pixels, restyle(source(answer.session, answer.tag, params), params, number))


def test_a_job_is_answered_when_its_chunks_have_arrived() -> None:
    with desk() as (here, flow):
        for i in range(4):
            here.send(work("a", i), work("b", i))
        for i in range(4):
            answered = here.next()
            assert answered.job == i
            assert [answer.session for answer in answered.done.chunks] == ["a", "b"]
            for answer in answered.done.chunks:
                expect(answer)
                assert answer.info == {"noise": PARAMS.noise}
        assert flow.batches == [2] * 4
        assert flow.open_states == 2


def test_several_chunks_of_a_session_are_under_way_at_once() -> None:
    with desk("ink") as (here, flow):
        for i in range(4):
            here.send(work("a", i))
        assert here.silent
        assert flow.batches == [1] * 4
        flow.free.set()
        assert [here.next().job for _ in range(4)] == [0, 1, 2, 3]


def test_jobs_are_answered_as_they_arrive() -> None:
    with desk("long") as (here, flow):
        slow, quick = here.send(work("a", 0, LONG)), here.send(work("b", 0, SHORT))
        flow.free.set()
        assert [here.next().job for _ in range(2)] == [quick, slow]


def test_the_end_waits_for_what_is_under_way() -> None:
    with desk("ink") as (here, flow):
        here.send(work("a"))
        threading.Timer(0.05, flow.free.set).start()
    assert not here.silent


def test_parameters_change_without_a_cut() -> None:
    with desk("ink") as (here, flow):
        for i, prompt in enumerate(("ink", "oil", "oil")):
            here.send(work("a", i, named(prompt)))
        flow.free.set()
        for prompt in ("ink", "oil", "oil"):
            expect(here.next().done.chunks[0], named(prompt))
        assert flow.open_states == 1


def test_first_size_vae_and_close_begin_a_new_stream() -> None:
    with desk(spec=replace(SPEC, light_vae=True)) as (here, flow):
        wide, light = replace(PARAMS, width=128), replace(PARAMS, width=128, vae="light")
        here.send(work("a"))
        here.next()
        for chunk, params in (
            (work("a", 7, first=True), PARAMS),
            (work("a", 8, wide), wide),
            (work("a", 9, light), light),
        ):
            here.send(chunk)
            expect(here.next().done.chunks[0], params, chunk=0)
        here.streams.close("a")
        here.streams.close("a")
        assert here.streams.sessions == []
        here.send(work("a", 5, light))
        expect(here.next().done.chunks[0], light, chunk=0)
        assert flow.open_states == 1


def test_a_stream_that_begins_anew_answers_for_what_was_under_way_and_first() -> None:
    with desk("ink") as (here, flow):
        old, new = here.send(work("a", 3)), here.send(work("a", 4, first=True))
        flow.free.set()
        answered = [here.next() for _ in range(2)]
        assert [one.job for one in answered] == [old, new]
        assert answered[0].errors == {"a": ("state_lost", False)}
        expect(answered[1].done.chunks[0], chunk=0)


def test_what_is_under_way_of_a_closed_session_gets_no_answer() -> None:
    with desk("ink") as (here, flow):
        both, alone = here.send(work("a", 0), work("b", 0)), here.send(work("a", 1))
        here.streams.close("a")
        assert flow.states[0].closed
        after = here.send(work("a", 0), work("b", 1))
        flow.free.set()
        answered = here.some(3)
        assert [answer.session for answer in answered[both].done.chunks] == ["b"]
        assert answered[alone].done.chunks == []
        assert (answered[both].done.times, answered[alone].done.times) == (None, None)  # it went no further
        assert [answer.session for answer in answered[after].done.chunks] == ["a", "b"]
        for answer in answered[after].done.chunks:
            expect(answer)
        assert flow.open_states == 2


def test_a_session_that_is_closed_waits_for_none_of_its_former_jobs() -> None:
    with desk("long") as (here, flow):
        former = here.send(work("b", 0, LONG), work("a", 0, SHORT))
        here.streams.close("a")
        fresh = here.send(work("a", 0, SHORT))
        flow.free.set()
        assert [here.next().job for _ in range(2)] == [fresh, former]


@pytest.mark.parametrize("action", ["raise", "params"])
@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_a_chunk_that_fails_costs_its_session_the_state_and_nobody_else_anything(stage: Any, action: Any) -> None:
    code = {"raise": "engine_failed", "params": "bad_params"}[action]
    with desk("ink", faults={"bad": Fault(stage, action)}) as (here, flow):
        jobs = [here.send(work("a", i, named(name)), work("b", i)) for i, name in enumerate(("ink", "bad", "ink"))]
        flow.free.set()
        answered = [here.next() for _ in jobs]
        assert [one.job for one in answered] == jobs
        assert [one.errors for one in answered] == [{}, {"a": (code, True)}, {"a": ("state_lost", True)}]
        expect(answered[0].done.chunks[0])
        for one in answered:
            expect(one.done.chunks[1])
        assert [bool(one.traces) for one in answered] == [False, action == "raise", False]
        assert [one.done.times is None for one in answered] == [False, True, True]
        assert not flow.states[0].closed  # which is not for the pipeline's thread to do
        here.tended()
        assert flow.states[0].closed
        assert here.checks == 0
        # What was sent before the failure was known comes to nothing; a first chunk begins anew.
        here.send(work("a", 3), work("b", 3))
        again = here.next()
        assert again.errors == {"a": ("state_lost", True)}
        expect(again.done.chunks[1])
        here.send(work("a", 4, first=True), work("b", 4))
        fresh = here.next().done.chunks
        expect(fresh[0], chunk=0)
        expect(fresh[1])
        here.send(work("a", 1))
        expect(here.next().done.chunks[0])
        assert flow.open_states == 2


def test_a_closed_session_may_go_on_after_a_failure_with_any_chunk() -> None:
    with desk(faults={"bad": Fault("encode")}) as (here, _):
        here.send(work("a", 0, named("bad")))
        here.next()
        here.streams.close("a")
        here.send(work("a"))
        expect(here.next().done.chunks[0])


@pytest.mark.parametrize("stage", ["open", "update", "send"])
def test_a_chunk_that_cannot_be_sent_is_its_sessions_fault_alone(stage: Any) -> None:
    with desk(faults={"bad": Fault(stage)}) as (here, flow):
        if stage != "open":
            here.send(work("a", 0), work("b", 0), work("c", 0))
            here.next()
        n = int(stage != "open")
        here.send(work("b", n), work("a", n, named("bad")), work("c", n))
        answered = here.next()
        assert answered.errors == {"a": ("engine_failed", True)}
        for answer in answered.done.chunks:
            if answer.session != "a":
                expect(answer)
        assert "programmed fault" in answered.traces[0]
        assert answered.done.times is None
        assert flow.batches == {"open": [2], "update": [3, 2], "send": [3, 1, 1]}[stage]
        here.send(work("a", 0, first=True))
        expect(here.next().done.chunks[0])
        assert flow.open_states == 3


def test_a_refused_update_leaves_the_state_as_it_was() -> None:
    with desk(faults={"bad": Fault("update", "params")}) as (here, _):
        for i, prompt in enumerate(("ink", "bad", "ink")):
            here.send(work("a", i, named(prompt)))
        answered = [here.next() for _ in range(3)]
        assert answered[1].errors == {"a": ("bad_params", False)}
        expect(answered[0].done.chunks[0])
        expect(answered[2].done.chunks[0], chunk=1)


def test_parts_of_a_job_that_fell_apart_are_answered_in_the_order_of_jobs() -> None:
    """The first job is sent chunk by chunk, as one of it is bad; its chunk of b takes long, and with it the job. The
    second, in which a goes on, is answered behind it; the third, of others, is not."""
    with desk("long", faults={"bad": Fault("send")}) as (here, flow):
        here.send(work("b", 0, LONG), work("a", 0, SHORT), work("c", 0, named("bad")))
        here.send(work("a", 1, SHORT))
        here.send(work("d", 0, SHORT))
        flow.free.set()
        assert [here.next().job for _ in range(3)] == [2, 0, 1]


def test_a_job_that_fails_altogether_makes_the_pipeline_suspect() -> None:
    with desk(faults={"bad": Fault("denoise")}) as (here, _):
        here.send(work("a", 0, named("bad")), work("b", 0, named("bad")))
        assert here.next().errors == {"a": ("engine_failed", True), "b": ("engine_failed", True)}
        here.tended()
        assert here.checks == 1


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_a_lost_device_answers_nobody_and_is_raised(stage: Any) -> None:
    with (
        pytest.raises(DeviceLostError, match=f"loss in {stage}"),
        desk("lost", faults={"lost": Fault(stage, "lose")}) as (
            here,
            flow,
        ),
    ):
        here.send(work("a", 0, named("lost")))
        here.send(work("b", 0))
        flow.free.set()
        here.tended()
    assert here.silent


@pytest.mark.parametrize("stage", ["open", "update", "send", "close"])
def test_a_device_that_is_found_to_be_lost_is_raised(stage: Any) -> None:
    lost = named("lost")
    with desk(faults={"lost": Fault(stage, "lose")}) as (here, _):
        if stage == "update":
            here.send(work("a"))
            here.next()
        with pytest.raises(DeviceLostError, match=f"loss in {stage}"):
            if stage == "close":
                here.send(work("a", 0, lost))
                here.next()
                here.streams.close("a")
            else:
                here.send(work("a", 0, lost), work("b", 0))
        if stage != "close":
            here.streams._jobs.clear()  # nobody will ever answer it, which the end of the context would wait for


def test_a_device_lost_while_the_end_waits_is_raised() -> None:
    with pytest.raises(DeviceLostError, match="gone"), desk("ink") as (here, flow):
        here.send(work("a"))
        lost = threading.Timer(0.05, flow.lose, args=("gone",))
        lost.start()
    lost.join(WAIT_S)
    flow.free.set()


def test_what_goes_wrong_while_answering_is_raised_where_it_can_be_seen() -> None:
    with pytest.raises(ZeroDivisionError), desk() as (here, _):

        def broken(run: Run, done: BatchDone, traces: tuple[str, ...]) -> None:
            raise ZeroDivisionError

        here.streams._answer = broken
        here.send(work("a"))
        here.tended()


def test_a_chunk_without_frames_is_answered_at_once() -> None:
    with desk("ink") as (here, flow):
        here.send(work("a"))
        here.send(ChunkWork("b", PARAMS, first=False, pixels=()))
        answered = here.next()
        assert (answered.job, answered.done.chunks, answered.done.times) == (1, [], None)
        flow.free.set()


@pytest.mark.parametrize("mode", ["sequential", "stream_batch"])
def test_either_mode_gives_every_result_with_its_own_job(mode: Any) -> None:
    with desk() as (here, _):
        for i in range(3):
            here.send(work("a", i, mode=mode))
        for i in range(3):
            answered = here.next()
            assert [answer.tag for answer in answered.done.chunks] == [i]
            expect(answered.done.chunks[0])


def test_a_chunk_that_is_too_long_to_begin_a_stream_is_refused() -> None:
    with desk(spec=replace(SPEC, first_chunk_frames=1)) as (here, _):
        here.send(work("a"))
        assert here.next().errors == {"a": ("state_lost", True)}
        here.send(ChunkWork("a", PARAMS, first=True, pixels=tuple(source("a", 0, count=1))))
        here.send(work("a", 1))
        assert not any(here.next().errors for _ in range(2))


def test_stamp_copies_the_top_of_each_input_onto_its_own_output() -> None:
    with desk() as (here, _):
        stamped = replace(PARAMS, stamp=True)
        for i in range(3):
            here.send(work("a", i, stamped))
        for i in range(3):
            (answer,) = here.next().done.chunks
            assert answer.pixels is not None
            assert np.array_equal(answer.pixels[:, :16], source("a", i)[:, :16])
            assert np.array_equal(answer.pixels[:, 16:], restyle(source("a", i), stamped, i)[:, 16:])


def test_frames_are_copied() -> None:
    with desk("ink") as (here, flow):
        pixels = source("a", 0)
        here.send(ChunkWork("a", PARAMS, first=True, pixels=tuple(pixels)))
        pixels[:] = 0
        flow.free.set()
        expect(here.next().done.chunks[0])


def test_times_are_those_of_the_arrival_and_count_the_work() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def clock() -> float:
        return now

    cost = FakeCost(encode_s=0.5, call_s=4.0, step_s=1.0, decode_s=0.25)
    with desk(clock=clock, cost=cost, sleep=sleep) as (here, flow):
        flow._clock = clock
        here.send(work("a"), work("b", 0, replace(PARAMS, steps=1)))
        times = here.next().done.times
    assert times is not None
    assert (times.encode, times.denoise, times.decode) == pytest.approx((1.0, 11.0, 0.5))
    assert times.transfer == 0.0
    assert (times.chunks, times.calls, times.rows, times.decoded) == (2, 2, 3, 2)


class Course:
    """What a session has sent, and what may become of it, whenever things arrive."""

    def __init__(self, name: str) -> None:
        self.said: list[ChunkDone] = []
        self._name = name
        self._may: dict[int, tuple[set[str], int, Params]] = {}
        """Of each chunk by its tag: what its answer may be, its number in its stream, its parameters."""
        self._since = 0
        """Tags below this are of a life that is closed."""
        self._number = 0
        self._broken = False

    @property
    def under_way(self) -> int:
        sent = sum(tag >= self._since for tag in self._may)
        return sent - sum(answer.tag >= self._since for answer in self.said)

    def close(self, tag: int) -> None:
        self._end("none", "state_lost")
        self._since = tag

    def chunk(self, tag: int, deed: str, steps: int) -> ChunkWork:
        if deed == "first":
            self._end("state_lost")
        params = replace(PARAMS, prompt="bad" if deed == "bad" else "ink", steps=steps)
        outcome = "state_lost" if self._broken else "engine_failed" if deed == "bad" else "done"
        self._may[tag] = {outcome}, self._number, params
        self._number += 1
        self._broken |= deed == "bad"
        return work(self._name, tag, params, first=deed == "first")

    def check(self) -> None:
        tags = [answer.tag for answer in self.said]
        assert tags == sorted(set(tags))
        assert {tag for tag, (outcomes, _, _) in self._may.items() if "none" not in outcomes} <= set(tags)
        for answer in self.said:
            outcomes, number, params = self._may[answer.tag]
            assert (answer.error[0] if answer.error else "done") in outcomes
            if answer.error is None:
                expect(answer, params, number)

    def _end(self, *outcomes: str) -> None:
        """The stream is over; this may become, too, of what is under way."""
        for may, _, _ in self._may.values():
            may.update(outcomes)
        self._number, self._broken = 0, False


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(["chunk"] * 6 + ["first", "bad", "close"]), st.integers(1, 3)
        ),
        min_size=1,
        max_size=40,
    )
)
def test_every_chunk_is_answered_once_in_order_and_with_its_own_picture(deeds: list[tuple[str, str, int]]) -> None:
    courses = {name: Course(name) for name in "abc"}
    with desk(faults={"bad": Fault("denoise")}) as (here, _):
        unanswered = 0

        def hear() -> int:
            for answer in here.next().done.chunks:
                courses[answer.session].said.append(answer)
            return unanswered - 1

        for tag, (name, deed, steps) in enumerate(deeds):
            course = courses[name]
            if deed == "close":
                course.close(tag)
                here.streams.close(name)
                continue
            while course.under_way >= SPEC.flight:
                unanswered = hear()
            here.send(course.chunk(tag, deed, steps))
            here.streams.tend()
            unanswered += 1
        while unanswered:
            unanswered = hear()
    for course in courses.values():
        course.check()
