"""The worker process: builds the pipeline, warms it up, and runs what the service sends."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, cast

from streamgen.core import Flow, Pipeline
from streamgen.engine.batch import Batch
from streamgen.engine.flow import FlowStreams
from streamgen.engine.frames import FrameMemory
from streamgen.engine.jobs import Jobs, Tend
from streamgen.engine.line import Line
from streamgen.engine.messages import Attach, Chunk, Close, Done, Failed, Ready, Result, Run, Stop, ToWorker
from streamgen.engine.streams import Streams
from streamgen.engine.work import BatchDone, ChunkDone, ChunkWork
from streamgen.errors import EngineError


def main(connection: Connection, factory: bytes, memory: FrameMemory, batch: int) -> None:
    """Runs until Stop, or until the service's end of the pipe closes: then the process ends at once.

    `factory` is a pickled callable that builds the pipeline; `batch` is the most chunks that the warm-up takes to one
    batch. What goes wrong is told in a Failed.
    """
    jobs = Jobs()
    threading.Thread(target=_receive, args=(connection, jobs), name="receive", daemon=True).start()
    try:
        try:
            pipeline: Pipeline[Any] = pickle.loads(factory)()  # noqa: S301 - our own parent made it
            worker = Worker(connection, memory, pipeline, batch)
            worker.serve(jobs)
        except Exception as error:  # noqa: BLE001 - the last stop: it becomes the service's reason to start another
            connection.send(Failed.because(error))
    except (BrokenPipeError, ConnectionResetError):
        return  # the service is gone


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A job whose chunks are on their way."""

    run: Run
    batch: Batch[Any]


class Worker:
    """Answers jobs in their order; those of a flow as they come out of it.

    Where the pipeline's stages overlap, this thread encodes, and two others denoise and decode what came before.
    Through a flow it sends, and threads of the pipeline's answer. Elsewhere it does it all, one job after the other.
    """

    def __init__(
        self,
        connection: Connection,
        memory: FrameMemory,
        pipeline: Pipeline[Any],
        batch: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`batch` is the most chunks in one batch."""
        self._connection = connection
        self._memory = memory
        self._pipeline = pipeline
        self._spec = pipeline.spec
        self._batch = batch
        self._clock = clock
        self._streams = Streams(pipeline, clock)

    def serve(self, jobs: Jobs) -> None:
        """Warms up, then answers until Stop. Raises where the pipeline cannot be used (any more)."""
        self._connection.send(Ready(self._spec, self._streams.warm_up(self._batch)))
        if self._spec.flight > 1:
            self._send(jobs, cast(Flow[Any], self._pipeline))
        elif not self._spec.overlap:
            self._work(jobs, lambda run: self._go_through(self._begin(run, jobs)), self._streams.close)
        else:
            with Line([self._denoise, self._answer], broken=lambda: jobs.put(Stop())) as line:
                self._work(jobs, lambda run: line.put(self._begin(run, jobs)), self._streams.close)

    def _work(
        self,
        jobs: Jobs,
        run: Callable[[Run], None],
        close: Callable[[str], None],
        tend: Callable[[], None] = lambda: None,
    ) -> None:
        """Does what is asked for, until Stop."""
        while not isinstance(message := jobs.get(), Stop):
            match message:
                case Attach():
                    self._memory.attach(message.slot_bytes, message.slots)
                case Run():
                    run(message)
                case Close():
                    close(message.session)
                case Tend():
                    tend()

    def _send(self, jobs: Jobs, flow: Flow[Any]) -> None:
        """Work where chunks flow."""
        wake = partial(jobs.put, Tend())
        with FlowStreams(flow, self._tell, wake, self._streams.check, self._clock) as streams:
            self._work(
                jobs,
                lambda run: streams.send(run, [self._chunk(chunk) for chunk in jobs.begin(run)]),
                streams.close,
                streams.tend,
            )

    def _begin(self, run: Run, jobs: Jobs) -> _Job:
        return _Job(run, self._streams.encode(lambda: [self._chunk(chunk) for chunk in jobs.begin(run)]))

    def _go_through(self, job: _Job) -> None:
        self._denoise(job)
        self._answer(job)

    def _denoise(self, job: _Job) -> None:
        self._streams.denoise(job.batch)

    def _answer(self, job: _Job) -> None:
        done = self._streams.decode(job.batch)
        self._tell(job.run, done, self._streams.traces())
        if done.chunks and all(answer.error and answer.error[0] == EngineError.code for answer in done.chunks):
            self._streams.check()  # raises where it is the device that is broken, and not the work

    def _tell(self, run: Run, done: BatchDone, traces: tuple[str, ...]) -> None:
        """From one thread at a time: after Ready nothing else is sent while jobs are answered."""
        began = self._clock()
        # Nothing looks at the inputs any more: from here on the job's slots take the outputs.
        slots = iter(run.slots)
        results = tuple(self._result(answer, None if answer.pixels is None else next(slots)) for answer in done.chunks)
        times = done.times and replace(done.times, transfer=done.times.transfer + self._clock() - began)
        self._connection.send(Done(run.job, results, times, traces))

    def _chunk(self, chunk: Chunk) -> ChunkWork:
        pixels = self._memory.view(chunk.slot, (chunk.frames, chunk.params.height, chunk.params.width, 3))
        return ChunkWork(chunk.session, chunk.params, chunk.first, tuple(pixels), chunk.mode, chunk.tag)

    def _result(self, answer: ChunkDone, slot: int | None) -> Result:
        shape: tuple[int, ...] = ()
        if answer.pixels is not None and slot is not None:
            shape = answer.pixels.shape
            self._memory.view(slot, shape)[:] = answer.pixels
        return Result(answer.session, answer.tag, slot, shape, answer.info, answer.error, answer.state_lost)


def _receive(connection: Connection, jobs: Jobs) -> None:
    """In a thread of its own, so that the end of the service is noticed in the middle of a job too."""
    try:
        while True:
            message: ToWorker = connection.recv()
            jobs.put(message)
            if isinstance(message, Stop):
                return
    except (EOFError, OSError):
        os._exit(0)  # nobody is left to tell
