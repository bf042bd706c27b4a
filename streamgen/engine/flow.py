"""The stream states of a pipeline through which chunks flow: several of a session under way at once."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np

from streamgen.core import Arrived, Flow, Params, Pixels
from streamgen.engine.answers import StateLostError, check_can_begin, cut_off, refusals, stamped, strip_of
from streamgen.engine.messages import Run
from streamgen.engine.stages import Stopwatch
from streamgen.engine.work import BatchDone, ChunkDone, ChunkWork, StageTimes
from streamgen.errors import DeviceLostError, EngineError, StreamgenError

S = TypeVar("S")

Answer = Callable[[Run, BatchDone, tuple[str, ...]], None]
"""Takes a job, its answers, and the tracebacks of what was unexpected since the last call."""


@dataclass(slots=True, eq=False)
class _Stream(Generic[S]):
    """A session's stream."""

    state: S
    params: Params
    useless: bool = False
    """It failed, or was closed: nothing comes of what is under way of it."""
    forgotten: bool = False
    """Its session was closed: nobody waits for it."""


@dataclass(slots=True, eq=False)
class _Item(Generic[S]):
    """A chunk under way."""

    chunk: ChunkWork
    stream: _Stream[S]
    pixels: Pixels
    """(T, H, W, 3)."""
    strip: Pixels | None


@dataclass(slots=True, eq=False)
class _Job:
    """A job that is not answered yet."""

    run: Run
    sessions: set[str]
    """That wait for it."""
    parts: int = 1
    """Of its chunks that were sent together and have not arrived; one more while it is being sent."""
    sent: int = 0
    """Parts in all."""
    answers: list[ChunkDone] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def times(self) -> StageTimes | None:
        """Where all of it went through all of the pipeline, together: what did not took less than such work does."""
        whole = self.sent == 1 and self.watch.decoded == self.watch.chunks
        return self.watch.times if whole and not any(answer.error for answer in self.answers) else None


class FlowStreams(Generic[S]):
    """Holds one stream state per session, sends chunks on their way, and answers jobs when their chunks have arrived.

    Jobs are answered as they arrive, but no session's chunk before those that were sent before it. A context; at its
    end everything that was sent is answered.

    A chunk that fails costs its session its stream state: what else of it is under way is answered with STATE_LOST, and
    so is what comes of it, until a first chunk does. It costs others nothing.

    Threads: `answer` and `wake` are called in the pipeline's; all methods belong to one, as the pipeline's do. Faults
    that are nobody's own are raised there, by whatever is called next: `wake` asks for `tend`.
    """

    def __init__(
        self,
        flow: Flow[S],
        answer: Answer,
        wake: Callable[[], None],
        check: Callable[[], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`check` raises where the pipeline cannot be used any more; it is asked when a job has failed altogether."""
        self._flow = flow
        self._answer = answer
        self._wake = wake
        self._check = check
        self._clock = clock
        self._lock = threading.Lock()
        """For what follows; never held while the pipeline works, or a job is answered."""
        self._idle = threading.Condition(self._lock)
        self._streams: dict[str, _Stream[S]] = {}
        self._cut_off: set[str] = set()
        """Sessions whose stream failed, until a first chunk comes."""
        self._jobs: list[_Job] = []
        """In the order in which they were sent."""
        self._broken: list[_Stream[S]] = []
        """To be closed."""
        self._suspect = False
        self._fault: Exception | None = None
        self._traces: list[str] = []
        self._answering = threading.Lock()
        """Held while jobs are answered: one after the other, whichever thread they come from."""
        self._ended = False
        """No more answers. Guarded by _answering."""

    def __enter__(self) -> FlowStreams[S]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            with self._answering:
                self._ended = True

    @property
    def sessions(self) -> list[str]:
        """Sessions that have a state."""
        with self._lock:
            return list(self._streams)

    def send(self, run: Run, chunks: Sequence[ChunkWork]) -> None:
        """Sends a job's chunks, at most one of each session, as one batch; it is answered later, or in this call.

        Their frames are read. Raises what nobody's own fault is.
        """
        self.tend()
        job = _Job(run, {chunk.session for chunk in chunks})
        with self._lock:
            self._jobs.append(job)
        admitted = [(chunk, stream) for chunk in chunks if (stream := self._admitted(chunk, job)) is not None]
        began = self._clock()
        items = [self._item(chunk, stream) for chunk, stream in admitted]
        job.watch.transfer += self._clock() - began
        if items:
            self._send(job, items)
        with self._lock:
            job.parts -= 1
        self._answer_due()

    def close(self, session: str) -> None:
        """Closes the session's state, if it has one; its chunks under way get no answer. The session's next chunk opens
        a fresh state at any rate.
        """
        self.tend()
        with self._lock:
            self._cut_off.discard(session)
            stream = self._streams.pop(session, None)
            for job in self._jobs:
                job.sessions.discard(session)
            if stream is not None:
                stream.useless = stream.forgotten = True
        if stream is not None:
            self._shut(stream)

    def tend(self) -> None:
        """Looks after what has failed: closes streams, checks the pipeline. Raises what ended it."""
        with self._lock:
            if self._fault is not None:
                raise self._fault
            broken, self._broken = self._broken, []
            suspect, self._suspect = self._suspect, False
        for stream in broken:
            self._shut(stream)
        if suspect:
            self._check()

    def _finish(self) -> None:
        with self._lock:
            self._idle.wait_for(lambda: not self._jobs or self._fault is not None)
        self.tend()

    # -- on the way there ----------------------------------------------------------------------------------------------

    def _admitted(self, chunk: ChunkWork, job: _Job) -> _Stream[S] | None:
        """The chunk's stream, opened or updated to its parameters; None where it goes no further."""
        try:
            return self._admit(chunk)
        except DeviceLostError:
            raise
        except StreamgenError as error:
            self._add(job, refusals(chunk, error))
        except Exception as error:  # noqa: BLE001 - a model may raise anything; it becomes the session's answer
            self._fail(job, chunk, error)
        return None

    def _admit(self, chunk: ChunkWork) -> _Stream[S] | None:
        session, params = chunk.session, chunk.params
        if chunk.flushes:
            return None  # nothing is ever held back
        stream = self._streams.get(session)
        if stream is not None and (chunk.first or params.made_for != stream.params.made_for):
            self._drop(session)
            stream = None
        if stream is None:
            if session in self._cut_off and not chunk.first:
                raise StateLostError("the stream's state is gone; a first chunk must come next")
            check_can_begin(chunk, self._flow.spec)
            stream = _Stream(self._flow.open(params), params)
            with self._lock:
                self._cut_off.discard(session)
                self._streams[session] = stream
        elif params != stream.params:
            self._flow.update(stream.state, params)
            stream.params = params
        return stream

    def _item(self, chunk: ChunkWork, stream: _Stream[S]) -> _Item[S]:
        pixels = np.stack(list(chunk.pixels))
        return _Item(chunk, stream, pixels, strip_of(chunk, pixels))

    def _send(self, job: _Job, items: Sequence[_Item[S]]) -> None:
        """Together or, where that fails, one by one."""
        with self._lock:
            job.parts += 1
            job.sent += 1
        try:
            frames = [(item.stream.state, item.pixels) for item in items]
            self._flow.send(frames, partial(self._arrived, job, items))
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - as in _admitted
            with self._lock:
                job.parts -= 1
            if len(items) > 1:
                for item in items:
                    self._send(job, [item])
            else:
                self._refuse(job, items[0], error)

    def _refuse(self, job: _Job, item: _Item[S], error: Exception) -> None:
        if item.stream.useless:  # since it was admitted a chunk before it has failed
            self._add(job, [cut_off(item.chunk.session, item.chunk.tag)])
        else:
            self._fail(job, item.chunk, error)

    def _fail(self, job: _Job, chunk: ChunkWork, error: Exception) -> None:
        """The chunk could not even be sent."""
        self._drop(chunk.session, failed=True)
        self._note(error)
        self._add(job, refusals(chunk, error))

    def _drop(self, session: str, *, failed: bool = False) -> None:
        """Closes the session's stream, if it has one."""
        with self._lock:
            stream = self._lose(session, failed=failed)
        if stream is not None:
            self._shut(stream)

    def _shut(self, stream: _Stream[S]) -> None:
        try:
            self._flow.close(stream.state)
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - a broken state must not keep its session, or others, from going on
            self._note(error)

    # -- on the way back -----------------------------------------------------------------------------------------------

    def _arrived(self, job: _Job, items: Sequence[_Item[S]], arrived: Arrived) -> None:
        """In a thread of the pipeline's, which must not suffer from it."""
        try:
            self._land(job, items, arrived)
            self._answer_due()
        except Exception as error:  # noqa: BLE001 - raised in the thread that all methods belong to
            with self._lock:
                self._fault = self._fault or error
                self._idle.notify_all()
            self._wake()

    def _land(self, job: _Job, items: Sequence[_Item[S]], arrived: Arrived) -> None:
        """Notes what has become of the chunks. Raises DeviceLostError where that is what it was."""
        for picture in arrived.pictures:
            if isinstance(picture, DeviceLostError):
                raise picture
        came = [
            picture if isinstance(picture, Exception) else stamped(picture, item.strip)
            for item, picture in zip(items, arrived.pictures, strict=True)
        ]
        with self._lock:
            for item, picture, sigma in zip(items, came, arrived.sigmas, strict=True):
                job.answers += self._answers(item, picture, sigma)
            watch = job.watch
            watch.encode, watch.denoise, watch.decode = arrived.encode, arrived.denoise, arrived.decode
            watch.calls, watch.rows, watch.chunks = arrived.calls, arrived.rows, len(items)
            watch.decoded = sum(not isinstance(picture, Exception) for picture in came)
            job.parts -= 1

    def _answers(self, item: _Item[S], picture: Pixels | Exception, sigma: float) -> list[ChunkDone]:
        """The chunk's answer, if it gets one. The lock is held."""
        chunk, stream = item.chunk, item.stream
        if stream.forgotten:
            return []
        if stream.useless:
            return [replace(cut_off(chunk.session, chunk.tag), state_lost=chunk.session not in self._streams)]
        if not isinstance(picture, Exception):
            return [ChunkDone(chunk.session, chunk.tag, picture, {"noise": sigma})]
        self._lose(chunk.session, failed=True)
        self._broken.append(stream)
        if not isinstance(picture, StreamgenError):
            self._traces.append(_trace(picture))
        return [replace(answer, state_lost=True) for answer in refusals(chunk, picture)]

    def _answer_due(self) -> None:
        """Answers the jobs that may be answered."""
        with self._answering:
            while not self._ended and (job := self._due()) is not None:
                with self._lock:
                    traces, self._traces = tuple(self._traces), []
                    failed = [
                        answer.error is not None and answer.error[0] == EngineError.code for answer in job.answers
                    ]
                    if failed and all(failed):
                        self._suspect = True
                    tend = self._suspect or bool(self._broken)
                self._answer(job.run, BatchDone(job.answers, job.times), traces)
                with self._lock:
                    self._jobs.remove(job)
                    self._idle.notify_all()
                if tend:
                    self._wake()

    def _due(self) -> _Job | None:
        """The first job that has all its answers, and none before it that one of its sessions waits for."""
        with self._lock:
            waiting: set[str] = set()
            for job in self._jobs:
                if not job.parts and not job.sessions & waiting:
                    return job
                waiting |= job.sessions
        return None

    # -- on either -----------------------------------------------------------------------------------------------------

    def _add(self, job: _Job, answers: Sequence[ChunkDone]) -> None:
        with self._lock:
            job.answers += [replace(answer, state_lost=answer.session not in self._streams) for answer in answers]

    def _lose(self, session: str, *, failed: bool) -> _Stream[S] | None:
        """The session's stream, which it has no more. The lock is held."""
        stream = self._streams.pop(session, None)
        if stream is not None:
            stream.useless = True
            if failed:
                self._cut_off.add(session)
        return stream

    def _note(self, error: Exception) -> None:
        if not isinstance(error, StreamgenError):
            with self._lock:
                self._traces.append(_trace(error))


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
