from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pipelines.fake import FAKE_SPEC, FakePipeline, FakeState, Fault, restyle
from streamgen.core import Params, Row
from streamgen.engine.frames import FrameMemory, slot_bytes
from streamgen.engine.messages import Attach, Chunk, Close, Done, FromWorker, Ready, Run, Stop, ToWorker
from streamgen.engine.worker import Worker

PARAMS = Params(prompt="ink", width=64, height=64)
SPEC = replace(FAKE_SPEC, defaults=Params(width=64, height=64))
SHAPE = (4, 64, 64, 3)
ATTACH = Attach(slot_bytes(64 * 64, 4), 4)


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
        inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        for message in (ATTACH, *messages, Stop()):
            inbox.put(message)
        Worker(self._workers_end, self.memory, pipeline).serve(inbox)

    def received(self) -> list[FromWorker]:
        messages = []
        while self._connection.poll():
            messages.append(self._connection.recv())
        return messages


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
    service.serve(FakePipeline(replace(SPEC, first_chunk_frames=4)), run(0), Close("a"), run(1), run(2))
    looks = [message for message in service.received() if isinstance(message, Done)]
    assert [done.results[0].error for done in looks] == [None] * 3
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


def test_a_pipeline_that_cannot_even_warm_up_any_more_ends_the_worker() -> None:
    service = Service()
    with pytest.raises(RuntimeError, match="the device is gone"):
        service.serve(Fragile(SPEC), run(1), run(2, "break"), run(3))
    answers = [message for message in service.received() if isinstance(message, Done)]
    assert [done.job for done in answers] == [1, 2]
    assert answers[1].results[0].error == ("engine_failed", "RuntimeError: the device is gone")
