"""A rank behind the first: carries out what it is told, with tensors from the rank before it, for the one behind it.

    told -> [listen] -> receive posted -> [queue] -> [work] -> sent on

Two threads: while one pass is computed, the receive of the next is posted already, and the one before is on its way.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.ring.group import Group, Incoming
from pipelines.ring.harm import harmless
from pipelines.ring.moving import carry_out
from pipelines.ring.operations import (
    CloseDecoder,
    Context,
    Copy,
    Decode,
    Drop,
    Forget,
    GiveBack,
    Move,
    Operation,
    Rows,
    Stop,
    Take,
)
from pipelines.ring.packing import SIDE, result_shape, returned, status, unpacked
from pipelines.ring.stage import Stage
from pipelines.ring.tail import Tail, final_shape, picture_shape

REPORT_S = 0.25
"""A rank that has worked reports this often."""

_AHEAD = 4
"""Operations that may be read ahead."""


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """An operation, with the tensor that it needs on its way."""

    operation: Operation
    incoming: Incoming | None
    finals: Incoming | None
    """Latents and conditions of rows that take their last step, on the last rank."""


class Rank:
    """Works until the first rank says Stop."""

    def __init__(self, group: Group, stage: Stage, tail: Tail | None) -> None:
        """tail: the last rank's."""
        self._group, self._stage, self._tail = group, stage, tail
        self._queue: queue.Queue[_Read | Exception] = queue.Queue(_AHEAD)
        self._moved = threading.Semaphore(0)
        self._reported = 0.0

    def work(self) -> None:
        """Raises DeviceLostError where another rank is gone, and what the device raises where it is broken."""
        threading.Thread(target=self._listen, name="ring-listen", daemon=True).start()
        with torch.inference_mode():
            while True:
                read = self._queue.get()
                if isinstance(read, Exception):
                    raise read
                if isinstance(read.operation, Stop):
                    self._group.settle()
                    return
                self._do(read.operation, read.incoming, read.finals)

    def _listen(self) -> None:
        """Reads ahead."""
        self._group.enter_thread()
        try:
            with torch.inference_mode():
                while True:
                    operation = self._group.told()
                    self._queue.put(_Read(operation, self._awaited(operation), self._awaited_finals(operation)))
                    if isinstance(operation, Stop):
                        return
                    if isinstance(operation, Move) and self._group.rank in (operation.source, operation.target):
                        self._moved.acquire()  # what is received after it waits until the block is there
        except Exception as error:  # noqa: BLE001 - raised in `work`, which would wait for ever
            self._queue.put(error)

    def _awaited(self, operation: Operation) -> Incoming | None:
        group, stage = self._group, self._stage
        match operation:
            case Rows():
                return group.receive("rows", group.rank - 1, stage.room_for(stage.message_shape(operation)))
            case Decode():
                return group.receive("latents", 0, stage.room_for(operation.shape))
            case _:
                return None

    def _do(self, operation: Operation, incoming: Incoming | None, finals: Incoming | None) -> None:
        match operation:
            case Rows():
                assert incoming is not None, "rows are awaited"
                self._pass(operation, incoming.wait(), finals)
                self._report()
            case Decode():
                assert incoming is not None, "latents are awaited"
                self._decode(operation, incoming.wait())
                self._report()
            case Take() | GiveBack() | Copy() | Drop():
                self._stage.slots(operation)
            case Move():
                if carry_out(operation, self._group, self._stage):
                    self._moved.release()
            case _:
                self._note(operation)

    def _awaited_finals(self, operation: Operation) -> Incoming | None:
        if self._tail is None or not isinstance(operation, Rows):
            return None
        count = sum(final is not None for final in operation.finals)
        if not count:
            return None
        shape = (2, count, *self._stage.prediction_shape(operation)[1:])
        return self._group.receive("latents", 0, self._stage.room_for(shape))

    def _note(self, operation: Operation) -> None:
        match operation:
            case Context(context, embedded, weights):
                self._stage.learn(context, embedded, weights)
            case Forget(context):
                self._stage.forget(context)
            case CloseDecoder(stream):
                assert self._tail is not None, "only the last rank has decoders"
                self._tail.close(stream)
            case _:
                raise AssertionError(f"{type(operation).__name__} is for another place")

    def _pass(self, rows: Rows, message: Tensor, finals: Incoming | None) -> None:
        x, (time_, modulation) = unpacked(message)
        with harmless(self._stage, rows.streams, message):
            message[:, :-SIDE] = x = self._stage.through(rows, x, modulation)
        if self._tail is None:
            self._group.send("rows", self._group.next, message)
            return
        result = self._stage.room_for(result_shape(self._stage.prediction_shape(rows)))
        status(result).copy_(status(message))
        with harmless(self._stage, rows.streams, result), self._stage.watch.span("beside", len(rows.slots)):
            result[:, :-1] = self._stage.model.predict(x, time_, (rows.frames, *rows.grid)).flatten(1)
        self._group.send("results", 0, result)
        if finals is not None:
            self._show(rows, result, finals.wait())

    def _show(self, rows: Rows, result: Tensor, sent: Tensor) -> None:
        """Pictures of the final rows, each in a message of its own."""
        assert self._tail is not None, "only the last rank makes pictures"
        prediction = self._stage.prediction_shape(rows)
        finals = [(i, final) for i, final in enumerate(rows.finals) if final is not None]
        shapes = [result_shape(final_shape(final, prediction)) for _, final in finals]
        messages = [torch.zeros(shape, dtype=torch.uint8, device=result.device) for shape in shapes]
        for message, (i, _) in zip(messages, finals, strict=True):
            status(message).copy_(status(result)[i : i + 1])
        with harmless(self._stage, tuple(rows.streams[i] for i, _ in finals), *messages):
            pictures = self._tail.pictures(rows, returned(result, prediction), sent)
            for message, picture in zip(messages, pictures, strict=True):
                message[:, :-1] = picture.flatten()
        for message in messages:
            self._group.send("results", 0, message)

    def _decode(self, operation: Decode, latents: Tensor) -> None:
        assert self._tail is not None, "only the last rank is told to decode"
        shape = result_shape(picture_shape(operation))
        result = torch.zeros(shape, dtype=torch.uint8, device=latents.device)
        with harmless(self._stage, operation.streams, result):
            result[:, :-1] = self._tail.decode(operation, latents).flatten(1)
        self._group.send("results", 0, result)

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._reported >= REPORT_S:
            self._reported = now
            self._group.report(self._stage.watch.report())
