"""Pixels in memory that service and worker share, cut into slots, and who owns which slot."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from streamgen.core import Pixels


class _DuplicatedFd(Protocol):
    def detach(self) -> int: ...


class FrameMemory:
    """Shared memory without a name: it is gone with the last process that has it, however that one ends.

    Sent to the worker as an argument of its process (nowhere else can it be pickled), and given its size by `resize`
    later, when the pipeline has told how large frames are. No /dev/shm, whose 64 MB in a container would not do.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._fd = _anonymous_file() if fd is None else fd
        self._bytes: NDArray[np.uint8] = np.empty((0, 0), np.uint8)

    def __reduce__(self) -> tuple[Callable[[_DuplicatedFd], FrameMemory], tuple[_DuplicatedFd]]:
        return _received, (cast(_DuplicatedFd, DupFd(self._fd)),)

    def resize(self, slot_bytes: int, slots: int) -> None:
        """Service: makes room for `slots` slots. Only pages that are written take memory."""
        os.ftruncate(self._fd, slot_bytes * slots)
        self.attach(slot_bytes, slots)

    def attach(self, slot_bytes: int, slots: int) -> None:
        """Worker: takes the size that the service has given the memory."""
        block: Any = mmap.mmap(self._fd, slot_bytes * slots)
        self._bytes = np.frombuffer(block, np.uint8).reshape(slots, slot_bytes)

    def view(self, slot: int, shape: tuple[int, ...]) -> Pixels:
        """The first bytes of a slot as uint8 pixels of `shape`; writes go to the other side."""
        count = int(np.prod(shape))
        if count > self._bytes.shape[1]:
            raise ValueError(f"pixels of shape {shape} in a slot of {self._bytes.shape[1]} bytes")
        return self._bytes[slot, :count].reshape(shape)

    def close(self) -> None:
        """Lets go of the memory; what still looks at it keeps it. Closing twice is harmless."""
        self._bytes = np.empty((0, 0), np.uint8)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FramePool:
    """Who owns which slot.

        slot = free, or owned by exactly one job: free + sum of all jobs' slots = all slots, none twice

    Slots that were used last are given out first, so that no more pages are ever touched than jobs needed at once.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._free = list(reversed(range(slots)))
        self._owned: dict[int, tuple[int, ...]] = {}

    @property
    def free(self) -> int:
        """Slots that nobody owns."""
        return len(self._free)

    def take(self, job: int, count: int) -> tuple[int, ...]:
        """`count` slots for `job`, which must have none yet. Raises ValueError where they are not there."""
        if job in self._owned or count > len(self._free):
            raise ValueError(f"{count} slots for job {job}, of {len(self._free)} free")
        self._owned[job] = tuple(self._free.pop() for _ in range(count))
        self._check()
        return self._owned[job]

    def give_back(self, job: int) -> None:
        """Frees the job's slots. Raises KeyError where it has none."""
        self._free.extend(reversed(self._owned.pop(job)))
        self._check()

    def _check(self) -> None:
        slots = sorted([*self._free, *(slot for taken in self._owned.values() for slot in taken)])
        assert slots == list(range(self._slots)), f"slots lost or owned twice: {slots}"


def slot_bytes(max_pixels: int, frames: int) -> int:
    """Bytes of a slot for `frames` RGB frames of `max_pixels`, in whole pages."""
    return -(-max_pixels * 3 * frames // mmap.PAGESIZE) * mmap.PAGESIZE


def _anonymous_file() -> int:
    """A file that is only memory (Linux), or one on disk that has no name (elsewhere)."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("streamgen-frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _received(fd: _DuplicatedFd) -> FrameMemory:
    return FrameMemory(fd.detach())
