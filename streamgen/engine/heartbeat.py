"""Heartbeats: how a process shows that it runs, and who has not shown it for too long."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Sequence

from streamgen.engine.frames import FrameMemory

BEAT_S = 0.1
"""A process beats this often."""

SILENT_S = 0.7
"""A process that has not beaten for so long is stopped, or swapped out, or hangs with the interpreter's lock in hand.
Plain load does not come near it: with six times as many busy processes as cores, beats came 0.26 s apart at most."""

LATE_S = 0.3
"""Who looks after the processes this long after the last time was stopped itself, perhaps with the whole machine."""


class Pulse:
    """A byte for each process, in memory that all of them share: it counts the process's beats, and begins again.

    To beat is to write there, so nobody ever waits for who looks. Sent to a process as an argument, as FrameMemory is.
    """

    def __init__(self, ranks: int, memory: FrameMemory | None = None) -> None:
        if memory is None:
            memory = FrameMemory()
            memory.resize(mmap.PAGESIZE, 1)
        else:
            memory.attach(mmap.PAGESIZE, 1)
        self._memory = memory
        self._beats = memory.view(0, (ranks,))

    def __reduce__(self) -> tuple[Callable[[int, FrameMemory], Pulse], tuple[int, FrameMemory]]:
        return Pulse, (len(self._beats), self._memory)

    @property
    def counts(self) -> list[int]:
        """Beats of each process so far, modulo 256."""
        return [int(count) for count in self._beats]

    def beat(self, rank: int) -> None:
        """One beat of this process."""
        self._beats[rank : rank + 1] += 1  # as an array, which may overflow

    def keep(self, rank: int) -> None:
        """Beats in a thread of its own for as long as this process runs."""
        threading.Thread(target=self._keep, args=(rank,), name="pulse", daemon=True).start()

    def close(self) -> None:
        """Lets go of the memory. Closing twice is harmless."""
        self._beats = self._beats.copy()
        self._memory.close()

    def _keep(self, rank: int) -> None:
        while True:
            self.beat(rank)
            time.sleep(BEAT_S)


class Watch:
    """Finds who has been silent for SILENT_S. Told the time (s) and the counts; never looks at them itself."""

    def __init__(self, now: float, counts: Sequence[int]) -> None:
        self._looked = now
        self._counts = list(counts)
        self._heard = [now] * len(counts)

    def look(self, now: float, counts: Sequence[int]) -> int | None:
        """The rank that is silent, or None. To be called every BEAT_S; after a longer pause nobody's silence counts."""
        late = now - self._looked > LATE_S
        beaten = [count != before for count, before in zip(counts, self._counts, strict=True)]
        self._heard = [now if heard or late else before for heard, before in zip(beaten, self._heard, strict=True)]
        self._looked, self._counts = now, list(counts)
        return next((rank for rank, heard in enumerate(self._heard) if now - heard >= SILENT_S), None)
