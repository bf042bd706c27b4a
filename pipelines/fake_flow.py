"""A Flow without a model: what FakePipeline computes, in as many threads as there are stages."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from pipelines.fake import FAKE_SPEC, FakeCost, FakePipeline, FakeState, Fault
from streamgen.core import Arrived, Params, PipelineSpec, Pixels, Row
from streamgen.errors import DeviceLostError

T = TypeVar("T")

FLOW_SPEC = replace(FAKE_SPEC, stages=4, flight=4)

FREE = FakeCost()


class _Stage:
    """A device: does one thing after the other, in the order in which they came, in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def put(self, work: Callable[[], object]) -> None:
        """To be done when it is its turn."""
        self._work.put(work)

    def done(self, work: Callable[[], T]) -> T:
        """What `work` comes to, when it is done. Raises what it raises."""
        future = Future[T]()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001 - goes to the thread that waits
                future.set_exception(error)

        self.put(run)
        return future.result()

    def end(self) -> None:
        """The thread ends when it has done what it has."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


@dataclass(slots=True, eq=False)
class _Stream:
    """What a flow knows of a state."""

    under_way: int = 0
    """Chunks; guarded by the flow's lock."""
    failed: int | None = None
    """The first chunk that failed."""
    told: bool = False
    """Whoever sent it knows."""
    passed: dict[tuple[int, int], int] = field(default_factory=dict)
    """The chunk that went through (stage, step) last: each stage has its own."""


@dataclass(slots=True, eq=False)
class _Chunk:
    stream: _Stream
    row: Row[FakeState]
    error: Exception | None = None

    @property
    def number(self) -> int:
        """In its stream."""
        chunk: int = self.row.latent.chunk
        return chunk

    @property
    def in_turn(self) -> bool:
        """Whether all of its stream before it have come out."""
        return self.row.state.decoded == self.number


@dataclass(slots=True, eq=False)
class _Batch:
    """Chunks that flow together."""

    chunks: Sequence[_Chunk]
    arrived: Callable[[Arrived], None]
    encode_s: float = 0.0
    denoise_s: float = 0.0
    decode_s: float = 0.0
    calls: int = 0
    rows: int = 0

    @property
    def sound(self) -> list[_Chunk]:
        """Those that have not failed."""
        return [chunk for chunk in self.chunks if chunk.error is None]

    @property
    def left(self) -> list[_Chunk]:
        """Those that have steps before them."""
        return [chunk for chunk in self.sound if not chunk.row.done]

    def result(self, pictures: Sequence[Pixels | Exception]) -> Arrived:
        """What has become of it."""
        sigmas = [chunk.row.sigma for chunk in self.chunks]
        return Arrived(pictures, sigmas, self.encode_s, self.denoise_s, self.decode_s, self.calls, self.rows)


class FakeFlow(FakePipeline):
    """Implements Flow[FakeState]; its output for a chunk is that of FakePipeline.

        send -> [stage 0] -> [stage 1] ... [stage S-1] -> arrived
                    ^                           |
                    +-------- next step --------+          encodes on the first stage, decodes on the last

    Each stage has a queue, and takes an Sth of what a denoising call takes. A chunk that is sooner through than one of
    its stream before it waits for that one. It checks what FakePipeline checks and, moreover, that no stream has more
    chunks under way than spec.flight, or is sent any once it is known to have failed; and that all calls come from one
    thread.
    """

    def __init__(
        self,
        spec: PipelineSpec = FLOW_SPEC,
        cost: FakeCost = FREE,
        faults: Mapping[str, Fault] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """As FakePipeline; `sleep` is called in the threads of the stages, which are called flow-0, flow-1, ..."""
        super().__init__(spec, cost, faults, sleep)
        self._clock = clock
        self._stages = [_Stage(f"flow-{number}") for number in range(spec.stages)]
        self._streams: dict[FakeState, _Stream] = {}
        self._books = threading.Lock()
        """For what follows, and what streams have under way."""
        self._under_way: dict[_Batch, None] = {}
        self._lost: DeviceLostError | None = None
        self._waiting: list[_Batch] = []
        """Batches to be decoded, in the order in which they came to the last stage, whose own this is."""
        self._caller: int | None = None

    def open(self, params: Params) -> FakeState:
        """As FakePipeline.open."""
        self._check_caller()
        state = super().open(params)
        self._streams[state] = _Stream()
        return state

    def update(self, state: FakeState, params: Params) -> None:
        """As FakePipeline.update, from the next chunk on that is sent."""
        self._check_caller()
        super().update(state, params)

    def close(self, state: FakeState) -> None:
        """Makes every further use of the state an error; what is under way of it comes without pictures."""
        self._check_caller()
        self._streams.pop(state, None)
        super().close(state)

    def send(self, chunks: Sequence[tuple[FakeState, Pixels]], arrived: Callable[[Arrived], None]) -> None:
        """Numbers the states' chunks. Raises ValueError, and what is programmed for "send", before any is sent."""
        self._check_caller()
        with self._alone("encode", *(state for state, _ in chunks)):
            if len({state for state, _ in chunks}) != len(chunks):
                raise ValueError("two chunks of one state in a batch")
            streams = [self._sendable(state, pixels) for state, pixels in chunks]
            rows = [self._row(state, pixels.copy()) for state, pixels in chunks]
        batch = _Batch([_Chunk(*pair) for pair in zip(streams, rows, strict=True)], arrived)
        with self._books:
            if self._lost is not None:
                raise self._lost
            self._under_way[batch] = None
            for stream in streams:
                stream.under_way += 1
        self._stages[0].put(partial(self._on_stage, self._encode_batch, batch))

    def lose(self, reason: str) -> None:
        """A device is gone: nothing that is under way will come to anything, nor will anything be sent any more."""
        self._lose(DeviceLostError(reason))

    def end(self) -> None:
        """Ends the threads; what is under way goes no further."""
        for stage in self._stages:
            stage.end()

    def encode(self, chunks: Sequence[tuple[FakeState, Pixels]]) -> list[Row[FakeState]]:
        """As FakePipeline.encode, when the first stage has come to it."""
        return self._called(self._stages[0], lambda: super(FakeFlow, self).encode(chunks))

    def denoise(self, rows: Sequence[Row[FakeState]]) -> list[Row[FakeState]]:
        """As FakePipeline.denoise, when the rows have been through all stages."""
        self._called(self._stages[0], lambda: self._check_rows(rows))
        for stage in self._stages:
            self._called(stage, lambda: self._step(rows))
        return [replace(row, step=row.step + 1) for row in rows]

    def decode(self, rows: Sequence[Row[FakeState]]) -> list[Pixels]:
        """As FakePipeline.decode, when the last stage has come to it."""
        return self._called(self._stages[-1], lambda: super(FakeFlow, self).decode(rows))

    # -- on the stages -------------------------------------------------------------------------------------------------

    def _on_stage(self, work: Callable[[_Batch], None], batch: _Batch) -> None:
        """Work on a batch, as long as all devices are there."""
        if self._lost is not None:
            return
        try:
            work(batch)
        except DeviceLostError as error:
            self._lose(error)

    def _encode_batch(self, batch: _Batch) -> None:
        for chunk in batch.chunks:
            self._attempt(chunk, partial(self._stumble, "encode", chunk.row.latent.params))
        rows_s = [self._scaled(self._cost.encode_s, chunk.row) for chunk in batch.sound]
        batch.encode_s = self._took(self._cost.encode_call_s, rows_s) if rows_s else 0.0
        self._go_on(batch, 0)

    def _pass(self, number: int, batch: _Batch) -> None:
        """One step of a batch on stage `number`."""
        for chunk in batch.left:
            self._attempt(chunk, partial(self._check_pass, number, chunk))
        rows = [chunk.row for chunk in batch.left]
        if number == 0:
            batch.calls += bool(rows)
            batch.rows += len(rows)
        batch.denoise_s += self._step(rows) if rows else 0.0
        if number + 1 == len(self._stages):
            for chunk in batch.left:
                chunk.row = replace(chunk.row, step=chunk.row.step + 1)
        self._go_on(batch, (number + 1) % len(self._stages))

    def _go_on(self, batch: _Batch, number: int) -> None:
        """To stage `number` next or, where no steps are left, to be decoded."""
        if number or batch.left:
            self._stages[number].put(partial(self._on_stage, partial(self._pass, number), batch))
        else:
            self._stages[-1].put(partial(self._on_stage, self._wait_for_turn, batch))

    def _check_pass(self, number: int, chunk: _Chunk) -> None:
        if number == 0:
            self._stumble("denoise", chunk.row.latent.params)
        place = number, chunk.row.step
        if chunk.stream.passed.get(place, -1) >= chunk.number:
            raise ValueError("chunks of one state came in another order than they were sent")
        chunk.stream.passed[place] = chunk.number

    def _wait_for_turn(self, batch: _Batch) -> None:
        """Decodes the batch, and others that wait, as soon as all chunks before theirs have come out."""
        self._waiting.append(batch)
        while ready := [other for other in self._waiting if all(chunk.in_turn for chunk in other.chunks)]:
            self._waiting.remove(ready[0])
            self._decode_batch(ready[0])

    def _decode_batch(self, batch: _Batch) -> None:
        pictures: dict[_Chunk, Pixels] = {}
        for chunk in batch.sound:
            self._attempt(chunk, partial(self._picture, chunk, pictures))
        rows_s = [self._scaled(self._decode_s(chunk.row), chunk.row) for chunk in pictures]
        batch.decode_s = self._took(self._cost.decode_call_s, rows_s) if rows_s else 0.0
        for chunk in batch.chunks:
            if chunk.error is not None:
                chunk.row.state.decoded += 1
        self._arrive(batch, [chunk.error or pictures[chunk] for chunk in batch.chunks])

    def _picture(self, chunk: _Chunk, pictures: dict[_Chunk, Pixels]) -> None:
        pictures[chunk] = self._decode(chunk.row)

    def _attempt(self, chunk: _Chunk, work: Callable[[], object]) -> None:
        """Work on one chunk: what is wrong with it is its own, and that of those behind it in its stream."""
        try:
            self._check_usable(chunk)
            work()
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - told to whoever sent it
            chunk.error = error
            if chunk.stream.failed is None:
                chunk.stream.failed = chunk.number

    def _check_usable(self, chunk: _Chunk) -> None:
        self._check_open(chunk.row.state)
        if chunk.stream.failed is not None and chunk.stream.failed < chunk.number:
            raise ValueError("a chunk of the stream before this one has failed")

    def _step(self, rows: Sequence[Row[FakeState]]) -> float:
        """A stage's part of a denoising call; what it took (s)."""
        share = 1 / len(self._stages)
        return self._took(self._cost.call_s * share, [self._scaled(self._cost.step_s, row) * share for row in rows])

    def _took(self, call_s: float, rows_s: Sequence[float]) -> float:
        began = self._clock()
        self._spend(call_s, rows_s)
        return self._clock() - began

    def _arrive(self, batch: _Batch, pictures: Sequence[Pixels | Exception]) -> None:
        with self._books:
            if batch not in self._under_way:
                return  # lost
            self._land(batch)
        batch.arrived(batch.result(pictures))
        for chunk in batch.chunks:
            chunk.stream.told |= chunk.error is not None

    def _lose(self, error: DeviceLostError) -> None:
        with self._books:
            self._lost = self._lost or error
            lost = list(self._under_way)
            for batch in lost:
                self._land(batch)
        for batch in lost:
            batch.arrived(batch.result([error] * len(batch.chunks)))

    def _land(self, batch: _Batch) -> None:
        del self._under_way[batch]
        for chunk in batch.chunks:
            chunk.stream.under_way -= 1

    # -- where it is called --------------------------------------------------------------------------------------------

    def _called(self, stage: _Stage, work: Callable[[], T]) -> T:
        self._check_caller()
        if self._lost is not None:
            raise self._lost
        try:
            return stage.done(work)
        except DeviceLostError as error:
            self._lose(error)
            raise

    def _sendable(self, state: FakeState, pixels: Pixels) -> _Stream:
        self._check_frames(state, pixels)
        self._stumble("send", state.params)
        stream = self._streams[state]
        with self._books:
            under_way = stream.under_way
        if stream.told:
            raise ValueError("a chunk of the stream has failed")
        if under_way >= self._spec.flight:
            raise ValueError(f"a stream has {under_way} chunks under way already")
        return stream

    def _check_caller(self) -> None:
        if self._caller is None:
            self._caller = threading.get_ident()
        if threading.get_ident() != self._caller:
            raise ValueError("a flow was called from two threads")
