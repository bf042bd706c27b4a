"""The service's side of the worker's streams: the same `run` and `close`, with a process border between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np

from streamgen.core import MAX_STEPS
from streamgen.engine.frames import FrameMemory, FramePool, slot_bytes
from streamgen.engine.messages import Attach, Chunk, Close, Done, Failed, FromWorker, Ready, Result, Run, Stop, ToWorker
from streamgen.engine.process import WorkerProcess
from streamgen.engine.work import ChunkDone, ChunkWork
from streamgen.errors import EngineError, ParamsError, StreamgenError, WorkerDiedError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

STOP_S = 3.0
"""How long a worker may take to finish what runs when it is asked to stop."""


class ChunkError(EngineError):
    """A chunk whose frames do not fit its parameters: the caller's mistake."""

    code = "bad_chunk"


class RemoteStreams:
    """One life of the worker once it is ready: all that belongs to it (memory, slots, threads) ends with it."""

    @classmethod
    async def open(cls, factory: bytes, slots: int, timeout_s: float) -> RemoteStreams:
        """Starts a worker and waits until it is ready. Raises EngineError that says why it is not."""
        memory = FrameMemory()
        try:
            process = WorkerProcess(factory, memory)
        except BaseException:
            memory.close()
            raise
        try:
            async with asyncio.timeout(timeout_s):
                ready = await process.receive()
            assert isinstance(ready, Ready), f"the worker began with {type(ready).__name__}"
            return cls(process, memory, ready, slots)
        except BaseException as error:
            process.kill("the worker was not wanted any more")
            try:
                await asyncio.shield(process.ended)
            finally:
                memory.close()
            if isinstance(error, TimeoutError):
                raise EngineError(f"the worker was not ready within {timeout_s:g} s") from None
            raise

    def __init__(self, process: WorkerProcess, memory: FrameMemory, ready: Ready, slots: int) -> None:
        """`slots` is the most chunks in one batch."""
        self.ready = ready
        self.ended = process.ended
        """Gets the reason when the worker is gone."""
        self._process = process
        self._memory = memory
        frames = max(ready.spec.frames_wanted(True), ready.spec.frames_wanted(False))
        self._attach = Attach(slot_bytes(ready.spec.max_pixels, frames), slots * MAX_STEPS)
        self._pool = FramePool(self._attach.slots)
        self.jobs_done = 0
        # Everything that blocks: copying frames, and sending to a worker that does not read.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._memory.resize(self._attach.slot_bytes, self._attach.slots)
        self._send_soon(self._attach)

    @property
    def pid(self) -> int | None:
        """Process id of the worker."""
        return self._process.pid

    async def run(self, chunks: Sequence[ChunkWork], timeout_s: float) -> list[ChunkDone]:
        """As Streams.run; one call at a time. Raises WorkerDiedError, also where there is no answer in time."""
        refused = [_refusal(chunk, error) for chunk in chunks if (error := self._fault(chunk)) is not None]
        accepted = [chunk for chunk in chunks if self._fault(chunk) is None]
        if not accepted:
            return refused
        job = self.jobs_done
        slots = self._pool.take(job, len(accepted) * MAX_STEPS)
        try:
            async with asyncio.timeout(timeout_s):
                await self._in_thread(self._submit, job, accepted, slots)
                answer = await self._process.receive()
                done = await self._in_thread(self._collect, job, answer)
        except TimeoutError:
            reason = f"the worker did not answer within {timeout_s:g} s"
            self._process.kill(reason)
            await asyncio.shield(self.ended)
            raise WorkerDiedError(reason) from None
        except WorkerDiedError:
            raise WorkerDiedError(await asyncio.shield(self.ended)) from None
        finally:
            self._pool.give_back(job)
        self.jobs_done += 1
        return refused + done

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
            closed = self._thread.submit(self._memory.close)  # after what it may still copy
            self._thread.shutdown(wait=False)
        await asyncio.wrap_future(closed)

    def _fault(self, chunk: ChunkWork) -> StreamgenError | None:
        """What is wrong with a chunk that cannot even be put into a slot."""
        spec, params = self.ready.spec, chunk.params
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

    def _submit(self, job: int, chunks: Sequence[ChunkWork], slots: tuple[int, ...]) -> None:
        messages = []
        for chunk, slot in zip(chunks, slots, strict=False):
            params, frames = chunk.params, len(chunk.pixels)
            view = self._memory.view(slot, (frames, params.height, params.width, 3))
            for target, frame in zip(view, chunk.pixels, strict=True):
                target[:] = frame
            messages.append(Chunk(chunk.session, params, chunk.first, slot, frames, chunk.mode, chunk.tag))
        self._process.send(Run(job, tuple(messages), slots))

    def _collect(self, job: int, answer: FromWorker) -> list[ChunkDone]:
        if isinstance(answer, Failed):
            logger.warning("a batch failed: %s", answer.message)
            logger.debug("in the worker:\n%s", answer.trace)
            raise EngineError(answer.message)
        assert isinstance(answer, Done), f"{type(answer).__name__} instead of an answer"
        assert answer.job == job, f"an answer to job {answer.job} instead of {job}"
        for trace in answer.traces:
            logger.debug("in the worker:\n%s", trace)
        return [self._done(result) for result in answer.results]

    def _done(self, r: Result) -> ChunkDone:
        pixels = None if r.slot is None else self._memory.view(r.slot, r.shape).copy()
        return ChunkDone(r.session, r.tag, pixels, r.timings_ms, r.info, r.error, r.state_lost)

    def _send_soon(self, message: ToWorker) -> None:
        self._thread.submit(self._process.send, message)  # where it fails, `ended` says why

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._thread.submit(call, *args, **kwargs))


def _refusal(chunk: ChunkWork, error: StreamgenError) -> ChunkDone:
    return ChunkDone(chunk.session, chunk.tag, None, {}, {}, (error.code, error.message), state_lost=chunk.first)
