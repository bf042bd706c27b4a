"""A rank's ties to the others, over torch.distributed: operations and reports as bytes, tensors from rank to rank.

Each kind of message between two ranks has a line of its own, on which messages come in the order in which they were
sent: over gloo a tag, over NCCL a communicator, so that a receive that waits holds up nothing else.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import FileStore  # type: ignore[attr-defined]

from pipelines.ring.operations import Operation, Report
from streamgen.errors import DeviceLostError

Line = Literal["rows", "results", "latents", "up", "down"]
"""rows: to the next rank; results: from the last to the first; latents: from the first to the last; up and down: blocks
that move to the next rank or the one before."""

_LINES: tuple[Line, ...] = ("rows", "results", "latents", "up", "down")

_TAGS = {line: 10 + i for i, line in enumerate(_LINES)}

_TOLD, _TOLD_MORE, _REPORTED, _REPORTED_MORE = 1, 2, 3, 4

_FRAME = 4096
"""Bytes of a message whose length is not known yet; what does not fit comes behind it."""

_LENGTH = 8

_AHEAD = 64
"""Operations that may be on their way to a rank before whoever tells them waits."""

_BUFFERS = 2
"""Tensors that may be on their way to a rank before whoever sends them waits."""

NEVER = timedelta(days=365)
"""No message is late: a ring may have nothing to do for days."""


@dataclass(frozen=True, slots=True, eq=False)
class Incoming:
    """A tensor that is awaited, in memory that is ready for it."""

    tensor: Tensor
    _work: dist.Work
    _stream: torch.cuda.Stream | None

    def wait(self) -> Tensor:
        """The tensor, when it is there. Raises DeviceLostError."""
        with _losses():
            _finish(self._work, self._stream)
        return self.tensor


class Group:
    """One rank among `size`. Methods may be called from different threads, each line and direction from one at a time.

    All raise DeviceLostError where a rank is gone.
    """

    def __init__(self, rendezvous: str, rank: int, size: int, device: torch.device) -> None:
        """Returns when all ranks have come. rendezvous: path of a file on this machine that was not there before."""
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
        self.rank, self.size = rank, size
        self._device = device
        self._sides: dict[Line, torch.cuda.Stream] = {}
        """On which to wait for what comes on a line, beside what is computed and what comes on others."""
        self.enter_thread()
        if device.type == "cuda":
            self._sides = {line: torch.cuda.Stream(device) for line in _LINES}
        with _losses():
            dist.init_process_group(
                "gloo", store=FileStore(rendezvous, size), rank=rank, world_size=size, timeout=NEVER
            )
            self._groups: dict[tuple[Line, int, int], Any] = {}
            if device.type == "cuda":
                self._groups = self._communicators()
                self._greet()
        self._sending: defaultdict[tuple[str, int], deque[tuple[dist.Work, Tensor]]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._leaving: list[threading.Thread] = []
        """Each waits until tensors of a `send_all` have arrived. Guarded by _lock."""

    def enter_thread(self) -> None:
        """To be called first in every thread that works with the device: CUDA's own choice is the first GPU there."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    @property
    def next(self) -> int:
        """The rank after this one; after the last there is none."""
        return self.rank + 1

    @property
    def last(self) -> int:
        """The last rank."""
        return self.size - 1

    def tell(self, operation: Operation, ranks: Sequence[int] | None = None) -> None:
        """Tells other ranks, all of them if None."""
        data = pickle.dumps(operation)
        for rank in range(1, self.size) if ranks is None else ranks:
            self._send_bytes(data, rank, _TOLD, _TOLD_MORE)

    def told(self) -> Operation:
        """The next operation; waits for it."""
        operation: Operation = self._receive_bytes(0, _TOLD, _TOLD_MORE)
        return operation

    def report(self, report: Report) -> None:
        """To the first rank."""
        self._send_bytes(pickle.dumps(report), 0, _REPORTED, _REPORTED_MORE)

    def reported(self, rank: int) -> Report:
        """The next report of a rank; waits for it."""
        report: Report = self._receive_bytes(rank, _REPORTED, _REPORTED_MORE)
        return report

    def send(self, line: Line, target: int, tensor: Tensor) -> list[Tensor]:
        """Sends a contiguous tensor, which must not change until it is among those that a later call gives back.

        Waits where the target is two tensors behind.
        """
        sent = []
        with _losses():
            sending = self._sending[line, target]
            if len(sending) >= _BUFFERS:
                work, before = sending.popleft()
                work.wait()
                sent.append(before)
            sending.append((self._isend(tensor, line, target), tensor))
        return sent

    def send_all(self, line: Line, target: int, tensors: Sequence[Tensor]) -> None:
        """Sends several, however far behind the target is; nothing keeps them once they are there."""
        with _losses():
            wholes = [tensor.contiguous() for tensor in tensors if tensor.numel()]
            works = deque((self._isend(whole, line, target), whole) for whole in wholes)
        leaving = threading.Thread(target=self._see_off, args=(works,), name="ring-leaving", daemon=True)
        with self._lock:
            self._leaving.append(leaving)
        leaving.start()

    @property
    def leaving(self) -> int:
        """How many calls of `send_all` have tensors that are not with their targets yet."""
        with self._lock:
            return len(self._leaving)

    def receive(self, line: Line, source: int, room: Tensor) -> Incoming:
        """The next tensor on that line will be in `room`."""
        with _losses():
            return Incoming(room, self._irecv(room, line, source), self._sides.get(line))

    def receive_all(self, line: Line, source: int, rooms: Sequence[Tensor]) -> None:
        """Fills `rooms`, in their order; waits for it."""
        for room in rooms:
            if room.numel():
                self.receive(line, source, room).wait()

    def settle(self) -> None:
        """Waits until all that was sent is with its targets."""
        with _losses():
            for sending in self._sending.values():
                while sending:
                    work, _ = sending.popleft()
                    work.wait()
        with self._lock:
            leaving = list(self._leaving)
        for thread in leaving:
            thread.join()

    def leave(self) -> None:
        """Cuts all ties."""
        self._sending.clear()
        with _losses():
            dist.destroy_process_group()

    def _communicators(self) -> dict[tuple[Line, int, int], Any]:
        """Of every line, in one order on all ranks."""
        pairs: list[tuple[Line, int, int]] = [("results", self.last, 0), ("latents", 0, self.last)]
        for rank in range(self.last):
            pairs += [("rows", rank, rank + 1), ("up", rank, rank + 1), ("down", rank + 1, rank)]
        return {pair: dist.new_group([pair[1], pair[2]], timeout=NEVER, backend="nccl") for pair in pairs}

    def _greet(self) -> None:
        """Uses every line once, one after the other in one order on all ranks. NCCL makes a communicator when it is
        first used, and both of its ranks wait for each other there: the first rank, which awaits a result before it
        sends what that is made of, would wait for ever.
        """
        for line, source, target in self._groups:
            if self.rank in (source, target):
                word = torch.zeros(1, device=self._device)
                away = self.rank == source
                work = self._isend(word, line, target) if away else self._irecv(word, line, source)
                _finish(work, self._sides.get(line))

    def _see_off(self, works: deque[tuple[dist.Work, Tensor]]) -> None:
        """Lets go of tensors one by one, as they arrive."""
        self.enter_thread()
        side = torch.cuda.Stream(self._device) if self._sides else None
        with suppress(DeviceLostError), _losses():  # that a rank is gone is noticed by those who wait for it
            while works:
                _finish(works[0][0], side)
                works.popleft()
        with self._lock:
            self._leaving.remove(threading.current_thread())

    def _isend(self, tensor: Tensor, line: Line, target: int) -> dist.Work:
        group = self._groups.get((line, self.rank, target))
        work = dist.isend(tensor, target, group, tag=_TAGS[line] if group is None else 0)
        assert work is not None, "both ranks are in the group"
        return work

    def _irecv(self, room: Tensor, line: Line, source: int) -> dist.Work:
        group = self._groups.get((line, source, self.rank))
        work = dist.irecv(room, source, group, tag=_TAGS[line] if group is None else 0)
        assert work is not None, "both ranks are in the group"
        return work

    def _send_bytes(self, data: bytes, target: int, tag: int, more: int) -> None:
        framed = len(data).to_bytes(_LENGTH, "little") + data
        first = framed[:_FRAME].ljust(_FRAME, b"\0")
        parts = [(first, tag)] + ([(framed[_FRAME:], more)] if len(framed) > _FRAME else [])
        with _losses():
            sending = self._sending[str(tag), target]
            for part, its_tag in parts:
                tensor = torch.frombuffer(bytearray(part), dtype=torch.uint8)
                work = dist.isend(tensor, target, tag=its_tag)
                assert work is not None, "every rank is in the world"
                sending.append((work, tensor))
            while len(sending) > _AHEAD:
                sending.popleft()[0].wait()

    def _receive_bytes(self, source: int, tag: int, more: int) -> Any:
        with _losses():
            frame = torch.empty(_FRAME, dtype=torch.uint8)
            dist.recv(frame, source, tag=tag)
            head = frame.numpy().tobytes()
            length = int.from_bytes(head[:_LENGTH], "little")
            data = head[_LENGTH : _LENGTH + length]
            if len(data) < length:
                rest = torch.empty(length - len(data), dtype=torch.uint8)
                dist.recv(rest, source, tag=more)
                data += rest.numpy().tobytes()
        return pickle.loads(data)  # noqa: S301 - the ranks are one program


def _finish(work: dist.Work, side: torch.cuda.Stream | None) -> None:
    """Waits until it is done, on a GPU by a stream that has nothing else to do."""
    if side is None:
        work.wait()
        return
    with torch.cuda.stream(side):
        work.wait()
    side.synchronize()


@contextmanager
def _losses() -> Iterator[None]:
    """What torch.distributed raises means that a rank is gone."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise DeviceLostError(f"a device of the ring is gone: {text[:200]}") from error
