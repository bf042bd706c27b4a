"""The stream states of all sessions, and whose chunk is on its way through the stages."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from streamgen.core import Params, Pipeline
from streamgen.engine.answers import check_can_begin, cut_off, refusals, stamped, strip_of
from streamgen.engine.batch import Batch, InFlight, Item, Stream
from streamgen.engine.stages import Stages
from streamgen.engine.warmup import Warmup
from streamgen.engine.work import BatchDone, ChunkDone, ChunkWork, WarmupTimes
from streamgen.errors import StreamgenError

S = TypeVar("S")


class Streams(Generic[S]):
    """Holds one stream state per session, opens and closes them, and keeps one session's faults from the others.

    A batch goes through `encode`, `denoise` and `decode`. Each of these may have a thread of its own, with one batch in
    it, as long as no session has chunks in two batches; `close` belongs to the thread of `encode`.

    Where a stage raises, all states of its batch are suspect: each chunk is run again, alone and on a fresh state. A
    session that fails alone gets the error, and runs alone for as long as it keeps these parameters.
    """

    def __init__(self, pipeline: Pipeline[S], clock: Callable[[], float] = time.perf_counter) -> None:
        self._stages = Stages(pipeline, clock)
        self._spec = pipeline.spec
        self._clock = clock
        self._lock = threading.Lock()
        """For what follows; never held while the pipeline works."""
        self._streams: dict[str, Stream[S]] = {}
        self._under_way: dict[str, Item[S]] = {}
        self._alone: dict[str, Params] = {}
        self._traces: list[str] = []

    @property
    def sessions(self) -> list[str]:
        """Sessions that have a state."""
        return list(self._streams)

    def warm_up(self, batch: int) -> tuple[WarmupTimes, ...]:
        """As Warmup.measure."""
        return Warmup(self._stages).measure(batch)

    def check(self) -> None:
        """As Warmup.check."""
        Warmup(self._stages).check()

    def run(self, chunks: Sequence[ChunkWork]) -> BatchDone:
        """All stages, one after the other, for at most one chunk of each session; as `encode` and `decode`."""
        batch = self.encode(lambda: chunks)
        self.denoise(batch)
        return self.decode(batch)

    def encode(self, begin: Callable[[], Sequence[ChunkWork]]) -> Batch[S]:
        """Calls `begin` for the chunks, in the moment in which work on them begins, and takes them to their rows.

        Frames are copied, but looked at again in `decode` where something failed.
        """
        with self._stages.encoding:  # so that a chunk can be taken back for as long as another batch is encoded
            batch = Batch([Item[S](chunk) for chunk in begin()])
            with self._lock:
                for item in batch.items:
                    session = item.chunk.session
                    assert session not in self._under_way, f"two chunks of session {session} at once"
                    self._under_way[session] = item
                    own = self._alone.get(session) == item.chunk.params
                    (batch.alone if own else batch.together).append(item)
            self._attempt(self._encode, batch)
        return batch

    def denoise(self, batch: Batch[S]) -> None:
        """Takes the rows on, and out of the stream batch those that are done."""
        self._attempt(self._denoise, batch)

    def decode(self, batch: Batch[S]) -> BatchDone:
        """Answers of the chunks that finished or failed, each session's in the order of time.

        What the pipeline raises, here and in the stages before, becomes an answer.
        """
        self._attempt(self._decode, batch)
        for item in batch.alone:
            own = Batch([item], [item])
            for stage in (self._encode, self._denoise, self._decode):
                self._attempt(stage, own)
            batch.answers += own.answers
        return self._finish(batch)

    def close(self, session: str) -> None:
        """Closes the session's state, if it has one, now or when the batch that uses it is done; its chunks in flight
        get no answer. The session's next chunk opens a fresh state at any rate.
        """
        with self._lock:
            self._alone.pop(session, None)
            stream = self._streams.pop(session, None)
            item = self._under_way.pop(session, None)
            if item is not None:
                item.forgotten = True
                if item.stream is stream:
                    return  # _finish closes it
        if stream is not None:
            self._shut(stream)

    def traces(self) -> tuple[str, ...]:
        """Tracebacks of the unexpected exceptions since this was asked last."""
        with self._lock:
            traces, self._traces = tuple(self._traces), []
        return traces

    def _attempt(self, stage: Callable[[Batch[S]], None], batch: Batch[S]) -> None:
        try:
            stage(batch)
        except Exception as error:  # noqa: BLE001 - a model may raise anything; it becomes the session's answer
            self._break_up(batch, error)

    def _break_up(self, batch: Batch[S], error: Exception) -> None:
        """The chunk that is alone in its batch gets the error; else each is to be run again, alone."""
        suspects, batch.together, batch.rows = batch.together, [], []
        if len(suspects) == 1:
            (item,) = suspects
            with self._lock:
                if not item.forgotten:
                    self._alone[item.chunk.session] = item.chunk.params
            batch.answers += self._failed(item, error)
            return
        for item in suspects:
            batch.answers += self._drop(item)
        batch.alone = suspects + batch.alone

    def _encode(self, batch: Batch[S]) -> None:
        batch.together = [item for item in batch.together if self._admitted(item, batch.answers)]
        arriving = [item for item in batch.together if not item.chunk.flushes]
        began = self._clock()
        frames = [np.stack(list(item.chunk.pixels)) for item in arriving]
        for item, pixels in zip(arriving, frames, strict=True):
            item.strip = strip_of(item.chunk, pixels)
        batch.watch.transfer += self._clock() - began
        rows = self._stages.encode(
            [(item.admitted.state, pixels) for item, pixels in zip(arriving, frames, strict=True)], batch.watch
        )
        for item, row in zip(arriving, rows, strict=True):
            item.row = row

    def _admitted(self, item: Item[S], answers: list[ChunkDone]) -> bool:
        """Whether the chunk goes through the stages; else it has its answer, if it gets one."""
        try:
            return self._admit(item, answers)
        except StreamgenError as error:
            answers += refusals(item.chunk, error)
        except Exception as error:  # noqa: BLE001 - as in _attempt
            answers += self._failed(item, error)
        return False

    def _admit(self, item: Item[S], answers: list[ChunkDone]) -> bool:
        """Gives the item its stream, opened or updated to its parameters. Adds answers of chunks that this drops."""
        chunk, params = item.chunk, item.chunk.params
        with self._lock:
            if item.forgotten:
                return False  # since it failed beside others; a stream of the session would be its next life's
            stream = item.stream = self._streams.get(chunk.session)
        if chunk.flushes:
            return stream is not None and bool(stream.flight)
        if stream is not None and (chunk.first or params.made_for != stream.params.made_for):
            answers += self._drop(item)
            stream = None
        if stream is None:
            check_can_begin(chunk, self._spec)
            self._adopt(item, Stream(self._stages.open(params), params))
        elif params != stream.params:
            self._stages.update(stream.state, params)
            stream.params = params
        return True

    def _adopt(self, item: Item[S], stream: Stream[S]) -> None:
        with self._lock:
            item.stream = stream
            if not item.forgotten:
                self._streams[item.chunk.session] = stream

    def _denoise(self, batch: Batch[S]) -> None:
        wanted = [item for item in batch.together if not item.forgotten]
        rows = [(item.row, item.chunk.mode == "stream_batch") for item in wanted if item.row is not None]
        batch.rows = self._stages.denoise(
            [item.admitted.state for item in wanted if item.chunk.flushes],
            [row for row, batched in rows if not batched],
            [row for row, batched in rows if batched],
            batch.watch,
        )

    def _decode(self, batch: Batch[S]) -> None:
        owners = {id(item.admitted.state): item for item in batch.together}
        wanted = [row for row in batch.rows if not owners[id(row.state)].forgotten]
        pictures = self._stages.decode(wanted, batch.watch)
        for item in batch.together:
            if item.row is not None:
                item.admitted.flight.append(InFlight(item.chunk.tag, item.strip))
        for row, picture in pictures:
            item = owners[id(row.state)]
            chunk = item.admitted.flight.popleft()
            pixels = stamped(picture, chunk.strip)
            batch.answers.append(ChunkDone(item.chunk.session, chunk.tag, pixels, {"noise": row.sigma}))

    def _finish(self, batch: Batch[S]) -> BatchDone:
        """The batch's answers, once its streams are free for other batches."""
        sound = not batch.alone and not any(answer.error for answer in batch.answers)
        with self._lock:
            for item in batch.items:
                if self._under_way.get(item.chunk.session) is item:
                    del self._under_way[item.chunk.session]
            forgotten = {item.chunk.session: item.stream for item in batch.items if item.forgotten}
            answers = [
                replace(answer, state_lost=answer.error is not None and answer.session not in self._streams)
                for answer in batch.answers
                if answer.session not in forgotten
            ]
        for stream in forgotten.values():
            if stream is not None:
                self._shut(stream)
        return BatchDone(answers, batch.watch.times if sound else None)

    def _failed(self, item: Item[S], error: Exception) -> list[ChunkDone]:
        """Closes the chunk's stream; answers for what it had in flight, and for the chunk."""
        if not isinstance(error, StreamgenError):
            self._trace(error)
        return [*self._drop(item), *refusals(item.chunk, error)]

    def _drop(self, item: Item[S]) -> list[ChunkDone]:
        """Takes its stream, if it has one, from item and session, and closes it; answers for what it had in flight."""
        session = item.chunk.session
        with self._lock:
            stream, item.stream = item.stream, None
            if stream is not None and self._streams.get(session) is stream:
                del self._streams[session]
        if stream is None:
            return []
        self._shut(stream)
        return [cut_off(session, chunk.tag) for chunk in stream.flight]

    def _shut(self, stream: Stream[S]) -> None:
        try:
            self._stages.close(stream.state)
        except Exception as error:  # noqa: BLE001 - a broken state must not keep its session, or others, from going on
            self._trace(error)

    def _trace(self, error: Exception) -> None:
        with self._lock:
            self._traces.append("".join(traceback.format_exception(error)))
