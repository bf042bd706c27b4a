"""The worker process: builds the pipeline, warms it up, and runs what the service sends."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from streamgen.allocator import keep_large_blocks
from streamgen.core import Pipeline
from streamgen.engine.frames import FrameMemory
from streamgen.engine.messages import Attach, Chunk, Close, Done, Failed, Ready, Result, Run, Stop, ToWorker, told
from streamgen.engine.streams import Streams
from streamgen.engine.work import ChunkDone, ChunkWork
from streamgen.errors import EngineError


def main(connection: Connection, factory: bytes, memory: FrameMemory) -> None:
    """Runs until Stop, or until the service's end of the pipe closes: then the process ends at once.

    `factory` is a pickled callable that builds the pipeline. What goes wrong is told in a Failed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the service decides when to end
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    keep_large_blocks()
    messages: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, messages), name="receive", daemon=True).start()
    try:
        try:
            pipeline: Pipeline[Any] = pickle.loads(factory)()  # noqa: S301 - our own parent made it
            worker = Worker(connection, memory, pipeline)
            worker.serve(messages)
        except Exception as error:  # noqa: BLE001 - the last stop: it becomes the service's reason to start another
            connection.send(_failed(None, error))
    except (BrokenPipeError, ConnectionResetError):
        return  # the service is gone


class Worker:
    """Answers messages one after the other."""

    def __init__(self, connection: Connection, memory: FrameMemory, pipeline: Pipeline[Any]) -> None:
        self._connection = connection
        self._memory = memory
        self._pipeline = pipeline
        self._streams = Streams(pipeline)

    def serve(self, messages: queue.SimpleQueue[ToWorker]) -> None:
        """Warms up, then answers until Stop. Raises where the pipeline cannot be used (any more)."""
        self._connection.send(Ready(self._pipeline.spec, self._streams.warm_up()))
        while not isinstance(message := messages.get(), Stop):
            match message:
                case Attach():
                    self._memory.attach(message.slot_bytes, message.slots)
                case Run():
                    self._run(message)
                case Close():
                    self._streams.close(message.session)

    def _run(self, job: Run) -> None:
        answers = self._streams.run([self._work(chunk) for chunk in job.chunks])
        # The inputs were copied: from here on the job's slots take the outputs.
        slots = iter(job.slots)
        results = tuple(self._result(answer, None if answer.pixels is None else next(slots)) for answer in answers)
        self._connection.send(Done(job.job, results, self._streams.traces))
        if answers and all(answer.error and answer.error[0] == EngineError.code for answer in answers):
            self._streams.warm_up()  # raises where it is the device that is broken, and not the work

    def _work(self, chunk: Chunk) -> ChunkWork:
        pixels = self._memory.view(chunk.slot, (chunk.frames, chunk.params.height, chunk.params.width, 3))
        return ChunkWork(chunk.session, chunk.params, chunk.first, tuple(pixels), chunk.mode, chunk.tag)

    def _result(self, answer: ChunkDone, slot: int | None) -> Result:
        shape: tuple[int, ...] = ()
        if answer.pixels is not None and slot is not None:
            shape = answer.pixels.shape
            self._memory.view(slot, shape)[:] = answer.pixels
        return Result(
            answer.session, answer.tag, slot, shape, answer.timings_ms, answer.info, answer.error, answer.state_lost
        )


def _receive(connection: Connection, messages: queue.SimpleQueue[ToWorker]) -> None:
    """In a thread of its own, so that the end of the service is noticed in the middle of a job too."""
    try:
        while True:
            message: ToWorker = connection.recv()
            messages.put(message)
            if isinstance(message, Stop):
                return
    except (EOFError, OSError):
        os._exit(0)  # nobody is left to tell


def _failed(job: int | None, error: Exception) -> Failed:
    return Failed(job, *told(error), "".join(traceback.format_exception(error)))
