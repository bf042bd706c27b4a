"""The service's side of the worker's streams: the same `run` and `close`, with a process border between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import numpy as np

from streamgen.core import MAX_STEPS
from streamgen.engine.frames import FrameMemory, FramePool, slot_bytes
from streamgen.engine.messages import Attach, Chunk, Close, Done, FromWorker, Ready, Result, Run, Stop, ToWorker
from streamgen.engine.patience import Patience
from streamgen.engine.work import BatchDone, ChunkDone, ChunkWork, depth_of
from streamgen.errors import EngineError, ParamsError, StreamgenError, WorkerDiedError

logger = logging.getLogger(__name__)

STOP_S = 3.0
"""How long a worker may take to finish what runs when it is asked to stop."""


class ChunkError(EngineError):
    """A chunk whose frames do not fit its parameters: the caller's mistake."""

    code = "bad_chunk"


class Process(Protocol):
    """What is needed of Crew, where everything is documented."""

    ended: asyncio.Future[str]

    @property
    def pids(self) -> tuple[int, ...]: ...

    def send(self, message: ToWorker) -> None: ...

    async def receive(self) -> FromWorker: ...

    def kill(self, reason: str) -> None: ...


class RemoteStreams:
    """One life of the worker once it is ready: all that belongs to it (memory, slots, threads) ends with it.

    Several batches may be on their way; the worker begins them in their order, and answers them in it, but where its
    pipeline is a flow. `run` returns in the order of the answers.
    """

    @classmethod
    async def open(
        cls, process: Process, memory: FrameMemory, slots: int, depth: int | None, timeout_s: float
    ) -> RemoteStreams:
        """Waits until a process that was started is ready. Raises EngineError that says why it is not: the process and
        the memory are gone then.
        """
        try:
            async with asyncio.timeout(timeout_s):
                ready = await process.receive()
            assert isinstance(ready, Ready), f"the worker began with {type(ready).__name__}"
            return cls(process, memory, ready, slots, depth)
        except BaseException as error:
            process.kill("the worker was not wanted any more")
            try:
                await asyncio.shield(process.ended)
            finally:
                memory.close()
            if isinstance(error, TimeoutError):
                raise EngineError(f"the worker was not ready within {timeout_s:g} s") from None
            raise

    def __init__(
        self,
        process: Process,
        memory: FrameMemory,
        ready: Ready,
        slots: int,
        depth: int | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`slots` is the most chunks in one batch, `depth` the most batches on their way, by default depth_of."""
        self.ready = ready
        self.depth = depth or depth_of(ready.spec)
        """Most batches on their way."""
        self.turns = asyncio.Semaphore(self.depth)
        """To be held while `run` is called."""
        self.ended = process.ended
        """Gets the reason when the worker is gone."""
        self.jobs_done = 0
        self._process = process
        self._memory = memory
        self._clock = clock
        frames = max(ready.spec.frames_wanted(True), ready.spec.frames_wanted(False))
        self._flows = ready.spec.flight > 1
        self._most_results = 1 if self._flows else MAX_STEPS
        """For each chunk of a job: what a stream batch holds comes with others."""
        self._attach = Attach(slot_bytes(ready.spec.max_pixels, frames), slots * self._most_results * self.depth)
        self._pool = FramePool(self._attach.slots)
        self._numbers = itertools.count()
        self._patience = Patience(self.depth)
        self._awaited: dict[int, asyncio.Future[Future[BatchDone] | None]] = {}
        """Of each job on its way, oldest first: gets the copying of its answer, or None where there will be none."""
        # Everything that blocks: copying frames, and sending to a worker that does not read. Never waits for an answer,
        # so that the frames of one batch are copied while another is computed.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._memory.resize(self._attach.slot_bytes, self._attach.slots)
        self._send_soon(self._attach)
        self._listening = asyncio.create_task(self._listen(), name="engine-answers")

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids, the head's first."""
        return self._process.pids

    async def run(self, chunks: Sequence[ChunkWork], timeout_s: float) -> BatchDone:
        """As Streams.run; at most `depth` calls at a time. `timeout_s` counts from when the worker can begin; in a flow
        it is Patience's.

        Raises WorkerDiedError, also where there is no answer in time.
        """
        refused = [_refusal(chunk, error) for chunk in chunks if (error := self._fault(chunk)) is not None]
        accepted = [chunk for chunk in chunks if self._fault(chunk) is None]
        if not accepted:
            return BatchDone(refused, None)
        job = next(self._numbers)
        slots = self._pool.take(job, len(accepted) * self._most_results)
        try:
            done = await self._run(job, accepted, slots, timeout_s)
        except TimeoutError:
            reason = f"the worker did not answer within {timeout_s:g} s"
            self._process.kill(reason)
            await asyncio.shield(self.ended)
            raise WorkerDiedError(reason) from None
        except WorkerDiedError:
            raise WorkerDiedError(await asyncio.shield(self.ended)) from None
        finally:
            self._pool.give_back(job)
            _settle(self._awaited.pop(job), None)
        self.jobs_done += 1
        return BatchDone(refused + done.chunks, None if refused else done.times)

    def close(self, session: str) -> None:
        """As Streams.close, after what was sent before. Never fails or waits."""
        if not self.ended.done():
            self._send_soon(Close(session))

    async def stop(self) -> None:
        """Lets the worker finish what runs, for a moment, and ends it. Returns when it is gone with all it had."""
        if not self.ended.done():
            self._send_soon(Stop())
        try:
            async with asyncio.timeout(STOP_S):
                await asyncio.shield(self.ended)
        except TimeoutError:
            self._process.kill("the worker did not stop when it was asked to")
            await asyncio.shield(self.ended)
        finally:
            await asyncio.wait({self._listening})  # the copying of every answer has been asked for
            closed = self._thread.submit(self._memory.close)  # after that
            self._thread.shutdown(wait=False)
        await asyncio.wrap_future(closed)

    async def _run(self, job: int, chunks: Sequence[ChunkWork], slots: tuple[int, ...], timeout_s: float) -> BatchDone:
        before = next(reversed(self._awaited.values()), None)
        answered: asyncio.Future[Future[BatchDone] | None] = asyncio.get_running_loop().create_future()
        self._awaited[job] = answered
        submitted = self._thread.submit(self._submit, job, chunks, slots)
        if self._flows:
            await self._patience.wait(answered, timeout_s)
        elif before is not None:
            await asyncio.wait({before})
        async with asyncio.timeout(timeout_s):
            copying_s = await asyncio.wrap_future(submitted)
            collecting = await asyncio.shield(answered)
            if collecting is None:
                raise WorkerDiedError("there is no answer")
            done = await asyncio.wrap_future(collecting)
        return replace(done, times=done.times and replace(done.times, transfer=done.times.transfer + copying_s))

    async def _listen(self) -> None:
        """Hands answers to those who wait for them, until there will be no more."""
        with contextlib.suppress(WorkerDiedError):
            while True:
                answer = await self._process.receive()
                assert isinstance(answer, Done), f"{type(answer).__name__} instead of an answer"
                self._patience.heard()
                if (answered := self._awaited.get(answer.job)) is not None:
                    _settle(answered, self._thread.submit(self._collect, answer))
        for answered in self._awaited.values():
            _settle(answered, None)

    def _fault(self, chunk: ChunkWork) -> StreamgenError | None:
        """What is wrong with a chunk that cannot even be put into a slot."""
        spec, params = self.ready.spec, chunk.params
        if chunk.flushes:
            return None
        try:
            spec.check(params)
        except ParamsError as error:
            return error
        if not 1 <= len(chunk.pixels) <= max(spec.first_chunk_frames, spec.chunk_frames):
            return ChunkError(f"{len(chunk.pixels)} frames in a chunk of {spec.name}")
        for frame in chunk.pixels:
            if frame.shape != (params.height, params.width, 3) or frame.dtype != np.uint8:
                return ChunkError(f"a frame is {frame.dtype} {frame.shape}, not uint8 {params.height, params.width, 3}")
        return None

    def _submit(self, job: int, chunks: Sequence[ChunkWork], slots: tuple[int, ...]) -> float:
        """Sends the job; returns the time that its frames took (s)."""
        began = self._clock()
        messages = []
        for chunk, slot in zip(chunks, slots, strict=False):
            params, frames = chunk.params, len(chunk.pixels)
            view = self._memory.view(slot, (frames, params.height, params.width, 3))
            for target, frame in zip(view, chunk.pixels, strict=True):
                target[:] = frame
            messages.append(Chunk(chunk.session, params, chunk.first, slot, frames, chunk.mode, chunk.tag))
        copying_s = self._clock() - began
        self._process.send(Run(job, tuple(messages), slots))
        return copying_s

    def _collect(self, answer: Done) -> BatchDone:
        for trace in answer.traces:
            logger.debug("in the worker:\n%s", trace)
        began = self._clock()
        chunks = [self._done(result) for result in answer.results]
        times = answer.times and replace(answer.times, transfer=answer.times.transfer + self._clock() - began)
        return BatchDone(chunks, times)

    def _done(self, r: Result) -> ChunkDone:
        pixels = None if r.slot is None else self._memory.view(r.slot, r.shape).copy()
        return ChunkDone(r.session, r.tag, pixels, r.info, r.error, r.state_lost)

    def _send_soon(self, message: ToWorker) -> None:
        self._thread.submit(self._process.send, message)  # where it fails, `ended` says why


def _settle(answered: asyncio.Future[Future[BatchDone] | None], collecting: Future[BatchDone] | None) -> None:
    if not answered.done():
        answered.set_result(collecting)


def _refusal(chunk: ChunkWork, error: StreamgenError) -> ChunkDone:
    return ChunkDone(chunk.session, chunk.tag, None, {}, (error.code, error.message), state_lost=chunk.first)
