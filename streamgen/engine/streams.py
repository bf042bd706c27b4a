"""The stream states of all sessions, and how a batch of their chunks goes through the pipeline."""

from __future__ import annotations

import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np

from pipelines.streaming import StreamBatch, finish
from streamgen.core import STAMP_ROWS, Params, Pipeline, Pixels, Row
from streamgen.engine.messages import told
from streamgen.engine.work import ChunkDone, ChunkWork
from streamgen.errors import EngineError, StreamgenError

S = TypeVar("S")

WARMUP_CHUNKS = 3
"""The first is a stream's first, the second may still compile, the last is measured."""


class StateLostError(EngineError):
    """The chunk goes on with a stream whose state is gone, and is too long to begin one."""

    code = "state_lost"


@dataclass(frozen=True, slots=True, eq=False)
class _InFlight:
    """What has to be known of a chunk when it comes out of the stream batch."""

    tag: int
    strip: Pixels | None
    """Top rows of its input frames, where they are to be stamped: (T, STAMP_ROWS, W, 3)."""


@dataclass(slots=True, eq=False)
class _Stream(Generic[S]):
    state: S
    params: Params
    flight: deque[_InFlight] = field(default_factory=deque)
    """Oldest first; one for each row that the state has in the stream batch."""


class Streams(Generic[S]):
    """Holds one stream state per session, opens and closes them, and keeps one session's faults from the others.

    A batch runs as one. Where a stage of it raises, all its states are suspect: each chunk is run again, alone and on a
    fresh state. A session that fails alone gets the error, and runs alone for as long as it keeps these parameters.
    """

    def __init__(self, pipeline: Pipeline[S], clock: Callable[[], float] = time.perf_counter) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._streams: dict[str, _Stream[S]] = {}
        self._batch = StreamBatch(pipeline)
        self._alone: dict[str, Params] = {}
        self._traces: list[str] = []

    @property
    def sessions(self) -> list[str]:
        """Sessions that have a state."""
        return list(self._streams)

    def warm_up(self) -> Mapping[str, float]:
        """Runs some chunks of the default size; returns the times of the last (ms). Raises what the pipeline raises."""
        spec = self._pipeline.spec
        stream = _Stream(self._pipeline.open(spec.defaults), spec.defaults)
        timings: Mapping[str, float] = {}
        try:
            for i in range(WARMUP_CHUNKS):
                shape = (spec.frames_wanted(i == 0), spec.defaults.height, spec.defaults.width, 3)
                work = ChunkWork("", spec.defaults, first=i == 0, pixels=tuple(np.full(shape, 127, np.uint8)))
                timings = self._attempt([(stream, work)])[0].timings_ms
        finally:
            self._pipeline.close(stream.state)
        return timings

    def run(self, chunks: Sequence[ChunkWork]) -> list[ChunkDone]:
        """Answers of the chunks that finished or failed, each session's in the order of time. At most one a session.

        Frames of `chunks` are copied. What the pipeline raises becomes an answer.
        """
        self._traces.clear()
        alone = [chunk for chunk in chunks if self._alone.get(chunk.session) == chunk.params]
        batches = [[chunk for chunk in chunks if chunk not in alone], *([chunk] for chunk in alone)]
        answers = [answer for batch in batches for answer in self._run_batch(batch)]
        return [replace(a, state_lost=a.error is not None and a.session not in self._streams) for a in answers]

    @property
    def traces(self) -> tuple[str, ...]:
        """Tracebacks of the unexpected exceptions of the last run."""
        return tuple(self._traces)

    def close(self, session: str) -> None:
        """Closes the session's state, if it has one; its chunks in flight get no answer."""
        self._alone.pop(session, None)
        self._drop(session)

    def _run_batch(self, chunks: Sequence[ChunkWork]) -> list[ChunkDone]:
        answers: list[ChunkDone] = []
        admitted = []
        for chunk in chunks:
            try:
                admitted.append((self._admit(chunk, answers), chunk))
            except StreamgenError as error:
                answers.append(_refusal(chunk, error))
            except Exception as error:  # noqa: BLE001 - a model may raise anything; it becomes the session's answer
                answers += self._failed(chunk, error)
        if not admitted:
            return answers
        try:
            return answers + self._attempt(admitted)
        except Exception as error:  # noqa: BLE001 - as above
            if len(admitted) == 1:
                chunk = admitted[0][1]
                self._alone[chunk.session] = chunk.params
                return answers + self._failed(chunk, error)
        for _, chunk in admitted:
            answers += self._drop(chunk.session)
        return answers + [answer for _, chunk in admitted for answer in self._run_batch([chunk])]

    def _admit(self, chunk: ChunkWork, answers: list[ChunkDone]) -> _Stream[S]:
        """The chunk's stream, opened or updated to its parameters. Adds answers of chunks that this drops."""
        params, stream = chunk.params, self._streams.get(chunk.session)
        if stream is not None and (chunk.first or _size(params) != _size(stream.params)):
            answers += self._drop(chunk.session)
            stream = None
        if stream is None:
            if len(chunk.pixels) > self._pipeline.spec.frames_wanted(first=True):
                raise StateLostError("the stream's state is gone; a first chunk must come next")
            stream = self._streams[chunk.session] = _Stream(self._pipeline.open(params), params)
        elif params != stream.params:
            self._pipeline.update(stream.state, params)
            stream.params = params
        return stream

    def _attempt(self, chunks: Sequence[tuple[_Stream[S], ChunkWork]]) -> list[ChunkDone]:
        """All stages for all chunks. Raises what the pipeline raises: the states are suspect then."""
        frames = [np.stack(list(chunk.pixels)) for _, chunk in chunks]
        began = self._clock()
        rows = self._pipeline.encode([(stream.state, f) for (stream, _), f in zip(chunks, frames, strict=True)])
        encoded = self._clock()
        rows = self._denoise(
            [(row, chunk.mode == "stream_batch") for row, (_, chunk) in zip(rows, chunks, strict=True)]
        )
        denoised = self._clock()
        pictures = self._decode(rows)
        stages = {"encode": encoded - began, "denoise": denoised - encoded, "decode": self._clock() - denoised}
        timings = {stage: seconds * 1000 for stage, seconds in stages.items()}
        for (stream, chunk), pixels in zip(chunks, frames, strict=True):
            stream.flight.append(_InFlight(chunk.tag, pixels[:, :STAMP_ROWS].copy() if chunk.params.stamp else None))
        owners = {id(stream.state): (stream, chunk.session) for stream, chunk in chunks}
        answers = []
        for row, picture in pictures:
            stream, session = owners[id(row.state)]
            chunk_out = stream.flight.popleft()
            pixels = _stamped(picture, chunk_out.strip)
            answers.append(ChunkDone(session, chunk_out.tag, pixels, timings, {"noise": row.sigma}))
        return answers

    def _denoise(self, rows: Sequence[tuple[Row[S], bool]]) -> list[Row[S]]:
        """Rows that are done: all those with False, and what leaves the stream batch when those with True come in."""
        direct = [row for row, batched in rows if not batched]
        earlier = self._batch.drain([row.state for row in direct])
        return earlier + finish(self._pipeline, direct) + self._batch.advance([row for row, batched in rows if batched])

    def _decode(self, rows: Sequence[Row[S]]) -> list[tuple[Row[S], Pixels]]:
        """Rows with their pictures. Of a state with several rows, one a call: its decoder goes from one to the next."""
        earlier = Counter[int]()
        calls: dict[int, list[Row[S]]] = {}
        for row in rows:
            calls.setdefault(earlier[id(row.state)], []).append(row)
            earlier[id(row.state)] += 1
        return [pair for call in calls.values() for pair in zip(call, self._pipeline.decode(call), strict=True)]

    def _failed(self, chunk: ChunkWork, error: Exception) -> list[ChunkDone]:
        """Closes the chunk's stream; answers for what it had in flight, and for the chunk."""
        if not isinstance(error, StreamgenError):
            self._traces.append("".join(traceback.format_exception(error)))
        return [*self._drop(chunk.session), _refusal(chunk, error)]

    def _drop(self, session: str) -> list[ChunkDone]:
        """Closes the session's state, if it has one; answers for what it had in flight."""
        stream = self._streams.pop(session, None)
        if stream is None:
            return []
        self._batch.discard(stream.state)
        try:
            self._pipeline.close(stream.state)
        except Exception as error:  # noqa: BLE001 - a broken state must not keep its session, or others, from going on
            self._traces.append("".join(traceback.format_exception(error)))
        lost = StateLostError("the stream's state was closed before this chunk was finished")
        return [ChunkDone(session, chunk.tag, None, {}, {}, (lost.code, lost.message)) for chunk in stream.flight]


def _refusal(chunk: ChunkWork, error: Exception) -> ChunkDone:
    return ChunkDone(chunk.session, chunk.tag, None, {}, {}, told(error))


def _stamped(picture: Pixels, strip: Pixels | None) -> Pixels:
    if strip is None:
        return picture
    result = picture.copy()
    result[:, :STAMP_ROWS] = strip
    return result


def _size(params: Params) -> tuple[int, int]:
    return params.width, params.height
