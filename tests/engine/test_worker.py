from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.fake import FAKE_SPEC, FakeCost, FakePipeline, FakeState, Fault, restyle
from pipelines.fake_flow import FakeFlow
from streamgen.core import Params, PipelineSpec, Pixels, Row
from streamgen.engine.frames import FrameMemory, slot_bytes
from streamgen.engine.jobs import Jobs
from streamgen.engine.messages import Attach, Chunk, Close, Done, FromWorker, Ready, Run, Stop, ToWorker
from streamgen.engine.work import Mode
from streamgen.engine.worker import Worker
from streamgen.errors import DeviceLostError

PARAMS = Params(prompt="ink", width=64, height=64)
SPEC = replace(FAKE_SPEC, defaults=Params(width=64, height=64))
SHAPE = (4, 64, 64, 3)
ATTACH = Attach(slot_bytes(64 * 64, 4), 48)
OVERLAP = replace(SPEC, overlap=True)
FLOW = replace(SPEC, stages=3, flight=3)
WAIT_S = 20.0


class Fragile(FakePipeline):
    """Breaks for good at the first chunk with the prompt "break"."""

    broken = False

    def denoise(self, rows: Sequence[Row[FakeState]]) -> list[Row[FakeState]]:
        self.broken |= any(row.latent.params.prompt == "break" for row in rows)
        if self.broken:
            raise RuntimeError("the device is gone")
        return super().denoise(rows)


class Service:
    """The other side: memory, the messages that the worker will get, and those that it has sent."""

    def __init__(self) -> None:
        self.memory = FrameMemory()
        self.memory.resize(ATTACH.slot_bytes, ATTACH.slots)
        self._connection, self._workers_end = multiprocessing.Pipe()

    def serve(self, pipeline: FakePipeline, *messages: ToWorker) -> None:
        """A worker that has all messages before it begins."""
        jobs = Jobs()
        for message in (ATTACH, *messages, Stop()):
            jobs.put(message)
        Worker(self._workers_end, self.memory, pipeline, 1).serve(jobs)

    @contextmanager
    def serving(self, pipeline: FakePipeline) -> Iterator[Jobs]:
        """A worker in a thread, until the end of the `with`."""
        jobs = Jobs()
        jobs.put(ATTACH)
        worker = Worker(self._workers_end, self.memory, pipeline, 1)
        with ThreadPoolExecutor(1) as thread:
            served = thread.submit(worker.serve, jobs)
            assert isinstance(self.wait(), Ready)
            try:
                yield jobs
            finally:
                jobs.put(Stop())
            served.result(WAIT_S)

    def wait(self) -> FromWorker:
        """The worker's next message."""
        assert self._connection.poll(WAIT_S)
        message: FromWorker = self._connection.recv()
        return message

    def answer(self) -> Done:
        done = self.wait()
        assert isinstance(done, Done)
        return done

    def received(self) -> list[FromWorker]:
        messages = []
        while self._connection.poll():
            messages.append(self._connection.recv())
        return messages

    def done(self) -> list[Done]:
        return [message for message in self.received() if isinstance(message, Done)]


def run(job: int, prompt: str = PARAMS.prompt, *, first: bool = False) -> Run:
    chunk = Chunk("a", replace(PARAMS, prompt=prompt), first, 2, 4, "sequential", tag=job)
    return Run(job, (chunk,), (2, 3))


def test_a_job_is_answered_in_its_own_slots() -> None:
    service = Service()
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    service.memory.view(2, SHAPE)[:] = pixels
    service.serve(FakePipeline(SPEC), run(7))
    ready, done = service.received()
    assert isinstance(ready, Ready)
    assert ready.spec == SPEC
    assert isinstance(done, Done)
    assert done.job == 7
    (result,) = done.results
    assert (result.session, result.tag, result.slot, result.shape) == ("a", 7, 2, SHAPE)
    assert np.array_equal(service.memory.view(2, SHAPE), restyle(pixels, PARAMS, 0))
    assert not service.memory.view(0, SHAPE).any()
    assert not service.memory.view(3, SHAPE).any()


def test_close_closes_the_state() -> None:
    service = Service()
    with service.serving(FakePipeline(SPEC)) as jobs:
        for job in range(3):
            jobs.put(run(job))
            assert service.answer().results[0].error is None
            if job == 0:
                jobs.put(Close("a"))
    # slot 2 held the results one after the other: chunk 0, then of a new state 0 and 1
    expected = np.zeros(SHAPE, np.uint8)
    for chunk in (0, 0, 1):
        expected = restyle(expected, PARAMS, chunk)
    assert np.array_equal(service.memory.view(2, SHAPE), expected)


def test_a_failed_job_has_its_trace() -> None:
    service = Service()
    service.serve(FakePipeline(SPEC, faults={"bad": Fault("decode")}), run(1, "bad"), run(2))
    _, failed, done = service.received()
    assert isinstance(failed, Done)
    assert failed.results[0].slot is None
    assert "Traceback" in failed.traces[0]
    assert isinstance(done, Done)
    assert (done.traces, done.results[0].error) == ((), None)


@pytest.mark.parametrize("spec", [SPEC, OVERLAP])
def test_a_pipeline_that_cannot_even_warm_up_any_more_ends_the_worker(spec: PipelineSpec) -> None:
    service = Service()
    with pytest.raises(RuntimeError, match="the device is gone"):
        service.serve(Fragile(spec), batch(1, ("a", "ink")), batch(2, ("b", "break")))
    answers = service.done()
    assert [done.job for done in answers] == [1, 2]
    assert answers[1].results[0].error == ("engine_failed", "RuntimeError: the device is gone")


def batch(job: int, *chunks: tuple[str, str], first: bool = False, mode: Mode = "sequential") -> Run:
    """A job of (session, prompt); its slots are the four from 4 * job on."""
    slots = range(4 * job, 4 * job + 4)
    made = (
        Chunk(session, replace(PARAMS, prompt=prompt), first, slot, 4, mode, tag=job)
        for slot, (session, prompt) in zip(slots, chunks, strict=False)
    )
    return Run(job, tuple(made), tuple(slots))


def fill(service: Service) -> Pixels:
    """Other frames in each slot."""
    pixels = np.random.default_rng(0).integers(0, 256, (ATTACH.slots, *SHAPE), np.uint8)
    for slot, frames in enumerate(pixels):
        service.memory.view(slot, SHAPE)[:] = frames
    return pixels


class Recorded(FakePipeline):
    """Notes the beginning of each stage with the first prompt of its batch, as "encode ink", and calls its hold."""

    def __init__(
        self, spec: PipelineSpec, holds: Mapping[str, Callable[[], object]] | None = None, **options: Any
    ) -> None:
        super().__init__(spec, **options)
        self.events: list[str] = []
        self.states: list[FakeState] = []
        self._holds = dict(holds or {})

    def open(self, params: Params) -> FakeState:
        self.states.append(super().open(params))
        return self.states[-1]

    def encode(self, chunks: Sequence[tuple[FakeState, Pixels]]) -> list[Row[FakeState]]:
        self._begin("encode", chunks[0][0].params)
        return super().encode(chunks)

    def denoise(self, rows: Sequence[Row[FakeState]]) -> list[Row[FakeState]]:
        self._begin("denoise", rows[0].latent.params)
        return super().denoise(rows)

    def decode(self, rows: Sequence[Row[FakeState]]) -> list[Pixels]:
        self._begin("decode", rows[0].latent.params)
        return super().decode(rows)

    def _begin(self, stage: str, params: Params) -> None:
        event = f"{stage} {params.prompt}"
        self.events.append(event)
        if event in self._holds:
            self._holds[event]()


def three_batches() -> list[Run]:
    """Of one step, so that each stage is one call."""
    jobs = [batch(i, (f"session {i}", str(i))) for i in range(3)]
    return [
        replace(job, chunks=(replace(chunk, params=replace(chunk.params, steps=1)),))
        for job in jobs
        for chunk in job.chunks
    ]


def test_stages_of_three_batches_overlap() -> None:
    """The third batch is encoded, the second denoised and the first decoded at once: each waits for the others."""
    meeting = threading.Barrier(3, timeout=WAIT_S)
    pipeline = Recorded(OVERLAP, dict.fromkeys(("encode 2", "denoise 1", "decode 0"), meeting.wait))
    service = Service()
    pixels = fill(service)
    service.serve(pipeline, *three_batches())
    assert not meeting.broken
    answers = service.done()
    assert [done.job for done in answers] == [0, 1, 2]
    for i, done in enumerate(answers):
        assert done.results[0].error is None
        assert np.array_equal(service.memory.view(4 * i, SHAPE), restyle(pixels[4 * i], Params(prompt=str(i)), 0))


def test_without_overlap_one_batch_is_done_before_the_next_begins() -> None:
    pipeline = Recorded(SPEC)
    service = Service()
    service.serve(pipeline, *three_batches())
    events = [event for event in pipeline.events if not event.endswith(" ")]  # the warm-up has no prompt
    assert events == [f"{stage} {i}" for i in range(3) for stage in ("encode", "denoise", "decode")]


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_a_fault_in_an_overlapped_worker_leaves_other_batches_as_they_are(stage: Any) -> None:
    """Sessions a and b have batches to themselves, before and after one that breaks; c shares that one."""

    def play(pipeline: FakePipeline, *, alone: bool) -> tuple[list[Pixels], list[tuple[str, str] | None]]:
        """Pixels of a and b, and the errors of c, in four rounds."""
        service = Service()
        fill(service)
        errors = []
        with service.serving(pipeline) as jobs:
            for i in range(0, 12, 3):
                broken = batch(i + 1, ("bad", "bad"), ("c", "ink"))
                runs = [batch(i, ("a", "ink")), *([] if alone else [broken]), batch(i + 2, ("b", "ink"))]
                for job in runs:
                    jobs.put(job)
                answers = [service.answer() for _ in runs]
                assert [done.job for done in answers] == [job.job for job in runs]
                results = {result.session: result for done in answers for result in done.results}
                assert results["a"].error is None
                assert results["b"].error is None
                errors += [] if alone else [results["c"].error]
        return [service.memory.view(4 * job, SHAPE).copy() for job in range(12) if job % 3 != 1], errors

    # Each call takes a while, so that one that did not wait for its turn would be caught.
    cost = FakeCost(encode_call_s=0.01, call_s=0.03, decode_call_s=0.01)
    faulty = Recorded(OVERLAP, faults={"bad": Fault(stage)}, cost=cost)
    ours, errors = play(faulty, alone=False)
    assert errors == [None] * 4
    assert faulty.events.count(f"{stage} bad") >= 4
    theirs, _ = play(FakePipeline(SPEC), alone=True)
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one, other)
    assert sum(not state.closed for state in faulty.states) == 3


@pytest.mark.parametrize("spec", [SPEC, OVERLAP])
def test_a_chunk_that_is_forgotten_before_it_begins_is_not_run(spec: PipelineSpec) -> None:
    free = threading.Event()
    pipeline = Recorded(spec, {"encode now": lambda: free.wait(WAIT_S)})
    service = Service()
    pixels = fill(service)
    with service.serving(pipeline) as jobs:
        jobs.put(batch(0, ("a", "ink")))
        service.answer()
        jobs.put(batch(1, ("b", "now")))
        jobs.put(batch(2, ("a", "gone"), ("c", "ink")))
        jobs.put(Close("a"))
        jobs.put(batch(3, ("a", "ink")))
        free.set()
        answers = [service.answer() for _ in range(3)]
    assert [[result.session for result in done.results] for done in answers] == [["b"], ["c"], ["a"]]
    assert all(result.error is None for done in answers for result in done.results)
    assert not [event for event in pipeline.events if event.endswith("gone")]
    assert answers[1].times is not None
    assert answers[1].times.chunks == 1
    assert np.array_equal(service.memory.view(12, SHAPE), restyle(pixels[12], PARAMS, 0))  # on a fresh state


def test_a_state_that_a_batch_uses_is_closed_after_it() -> None:
    used, free, encoded = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        used.set()
        assert free.wait(WAIT_S)

    pipeline = Recorded(OVERLAP, {"denoise slow": hold, "encode next": encoded.set})
    service = Service()
    pixels = fill(service)
    with service.serving(pipeline) as jobs:
        jobs.put(batch(0, ("a", "slow"), ("b", "ink")))
        assert used.wait(WAIT_S)
        jobs.put(Close("a"))
        jobs.put(batch(1, ("a", "next"), first=True))
        assert encoded.wait(WAIT_S)
        used_one, beside, fresh = pipeline.states[-3:]
        assert not used_one.closed
        free.set()
        answers = [service.answer() for _ in range(2)]
    assert [[result.session for result in done.results] for done in answers] == [["b"], ["a"]]
    assert [state.closed for state in (used_one, beside, fresh)] == [True, False, False]
    assert np.array_equal(service.memory.view(4, SHAPE), restyle(pixels[4], Params(prompt="next"), 0))


def test_times_hold_the_copies_of_the_worker() -> None:
    now = iter(range(10_000))
    service = Service()
    jobs = Jobs()
    for message in (ATTACH, run(0), Stop()):
        jobs.put(message)
    Worker(service._workers_end, service.memory, FakePipeline(SPEC), 1, clock=lambda: float(next(now))).serve(jobs)
    (done,) = service.done()
    assert done.times is not None
    # every look at the clock is a second: one for stacking, one for writing the results, one for each call
    assert (done.times.transfer, done.times.encode, done.times.denoise, done.times.decode) == (2.0, 1.0, 2.0, 1.0)


def test_ready_tells_what_chunks_take() -> None:
    service = Service()
    service.serve(FakePipeline(replace(SPEC, first_chunk_frames=1)))
    (ready,) = service.received()
    assert isinstance(ready, Ready)
    assert [(one.frames, one.times.chunks) for one in ready.warmup] == [(4, 1), (1, 1)]


class FragileFlow(FakeFlow):
    """Breaks for good at the first chunk with the prompt "break"."""

    broken = False

    def _stumble(self, stage: Any, params: Params) -> None:
        self.broken |= params.prompt == "break"
        if self.broken and stage == "denoise":
            raise RuntimeError("the device is gone")
        super()._stumble(stage, params)


def test_through_a_flow_jobs_of_one_session_are_under_way_at_once_and_each_answered_in_its_own_slots() -> None:
    meeting = threading.Barrier(3, timeout=WAIT_S)
    seen = dict.fromkeys(("flow-0", "flow-1", "flow-2"), 0)

    def sleep(seconds: float) -> None:
        """Job 0 on the last stage, 1 on the second and 2 on the first wait for each other."""
        name = threading.current_thread().name
        if flowing.is_set():
            stage, job = int(name[-1]), seen[name]
            seen[name] += 1
            if stage + job == 2:
                meeting.wait()

    flowing, service = threading.Event(), Service()
    pixels = fill(service)
    flow = FakeFlow(FLOW, FakeCost(step_s=1.0), sleep=sleep)
    with service.serving(flow) as jobs:
        flowing.set()
        for job in range(3):
            jobs.put(batch(job, ("a", "ink")))
        answers = [service.answer() for _ in range(3)]
    flow.end()
    assert not meeting.broken
    assert [done.job for done in answers] == [0, 1, 2]
    for job, done in enumerate(answers):
        (result,) = done.results
        assert (result.slot, result.error) == (4 * job, None)
        assert done.times is not None
        assert (done.times.chunks, done.times.calls, done.times.decoded) == (1, 2, 1)
        assert np.array_equal(service.memory.view(4 * job, SHAPE), restyle(pixels[4 * job], PARAMS, job))


def test_a_flow_is_warmed_up_and_ends_with_what_was_sent() -> None:
    service = Service()
    flow = FakeFlow(FLOW)
    service.serve(flow, *(batch(job, ("a", "ink"), ("b", "ink")) for job in range(3)))
    flow.end()
    ready, *answers = service.received()
    assert isinstance(ready, Ready)
    assert [(one.frames, one.times.calls) for one in ready.warmup] == [(4, 2)]
    assert [done.job for done in answers if isinstance(done, Done)] == [0, 1, 2]


def test_what_a_flow_loses_is_looked_after_by_the_thread_that_works() -> None:
    flow = FakeFlow(FLOW, faults={"bad": Fault("denoise")})
    closed: list[str] = []
    flow.close = lambda state: closed.append(threading.current_thread().name)  # type: ignore[method-assign]
    service = Service()
    with service.serving(flow) as jobs:
        closed.clear()
        jobs.put(batch(0, ("a", "bad"), ("b", "ink")))
        results = {result.session: result for result in service.answer().results}
        assert results["a"].error is not None
        assert results["b"].error is None
    flow.end()
    assert len(closed) == 1
    assert not closed[0].startswith("flow-")


def test_a_flow_that_cannot_even_be_checked_ends_the_worker() -> None:
    service = Service()
    flow = FragileFlow(FLOW)
    with pytest.raises(RuntimeError, match="the device is gone"):
        service.serve(flow, batch(1, ("a", "ink")), batch(2, ("b", "break")))
    flow.end()
    answers = service.done()
    assert [done.job for done in answers] == [1, 2]
    assert answers[1].results[0].error == ("engine_failed", "RuntimeError: the device is gone")


def test_a_device_that_a_flow_loses_ends_the_worker_without_an_answer() -> None:
    service = Service()
    flow = FakeFlow(FLOW, faults={"lost": Fault("denoise", "lose")})
    with pytest.raises(DeviceLostError, match="programmed loss"):
        service.serve(flow, batch(1, ("a", "lost")), batch(2, ("b", "ink")))
    flow.end()
    assert service.done() == []
