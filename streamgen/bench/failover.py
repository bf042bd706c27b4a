"""What becomes of a live session when the processes behind it die or hang, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass

import numpy as np

from streamgen.bench.footprint import PROC, Footprint, footprint, tree
from streamgen.bench.server import Server
from streamgen.client import Client, Restarted
from streamgen.client.session import Session
from streamgen.core import Pixels

FPS = 8.0
STEADY_S = 2.0
"""Results come for so long, without a longer gap than this, before the next process dies."""
MOST_S = 60.0
"""A stream that does not come back in this time does not come back."""
SETTLE_S = 15.0

BLOWS = (signal.SIGKILL, signal.SIGSTOP)


@dataclass(frozen=True, slots=True)
class Failure:
    """One process that died, or hung."""

    rank: int
    blow: str
    """SIGKILL or SIGSTOP."""
    frozen_s: float
    """From the blow to the first result that was made after it (s)."""
    reason: str
    """As the client was told it."""


@dataclass(frozen=True, slots=True)
class Failover:
    """What was seen."""

    failures: tuple[Failure, ...]
    sessions_lost: int
    before: Footprint
    """With a session that ran, before the first blow."""
    after: Footprint
    """With the same session, after the last."""

    def faults(self) -> list[str]:
        """One line for everything that was lost or left behind."""
        found = [f"{self.sessions_lost} sessions were lost"] if self.sessions_lost else []
        found += [f"rank {it.rank} got {it.blow}: not back in {MOST_S:g} s" for it in self.failures if it.frozen_s < 0]
        return found + self.after.leaks(self.before)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "failures": [asdict(it) for it in self.failures],
            "longest_freeze_s": max((it.frozen_s for it in self.failures), default=0.0),
            "sessions_lost": self.sessions_lost,
            "before": asdict(self.before),
            "after": asdict(self.after),
        }


class _Watched:
    """A session's results and restarts as they come."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.results = 0
        self.last = time.monotonic()
        self.reasons: list[str] = []
        self._news = asyncio.Event()
        self._tasks = [asyncio.create_task(self._count()), asyncio.create_task(self._listen())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def steady(self) -> bool:
        """Waits until results come again and again; False where they do not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MOST_S):
                since, seen = time.monotonic(), self.results
                while time.monotonic() - since < STEADY_S:
                    await asyncio.sleep(0.05)
                    if time.monotonic() - self.last > STEADY_S / 2:
                        since, seen = time.monotonic(), self.results
                return self.results > seen
        return False

    async def restarted(self, restarts: int) -> bool:
        """Waits until the session has been told of so many restarts, and has had a result since."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MOST_S):
                await self._until(lambda: len(self.reasons) >= restarts)
                seen = self.results
                await self._until(lambda: self.results > seen)
                return True
        return False

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def _count(self) -> None:
        async for _ in self.session.frames():
            self.results += 1
            self.last = time.monotonic()
            self._news.set()

    async def _listen(self) -> None:
        async for event in self.session.events():
            if isinstance(event, Restarted):
                self.reasons.append(event.reason)
                self._news.set()


async def fail(server: Server, times: int, seen: Callable[[Failure], None]) -> Failover:
    """Kills or stops each of the engine's processes in turn, `times` in all, while a session runs."""
    async with Client(server.url) as client:
        session = await client.open(_scene(), fps=FPS, prompt="oil painting", slo_ms=4000.0)
        watched = _Watched(session)
        try:
            await watched.steady()
            before, failures = footprint(server.pid), []
            for number in range(times):
                failures.append(await _blow(server, watched, number))
                seen(failures[-1])
                if failures[-1].frozen_s < 0:
                    break
                await watched.steady()
            after = await _settled(server, before)
            lost = int(session.closed)
        finally:
            await watched.close()
    return Failover(tuple(failures), lost, before, after)


async def _blow(server: Server, watched: _Watched, number: int) -> Failure:
    ranks = ranks_of(server.pid)
    rank = number % len(ranks)
    blow = BLOWS[number // len(ranks) % len(BLOWS)]
    restarts, began = len(watched.reasons), time.monotonic()
    os.kill(ranks[rank], blow)
    back = await watched.restarted(restarts + 1)
    frozen = watched.last - began if back else -1.0
    return Failure(rank, blow.name, frozen, watched.reasons[-1] if back else "")


def ranks_of(service: int) -> list[int]:
    """Process ids of the engine's processes, in the order in which they were started: by rank.

    They are forked from a server of multiprocessing's, or children of the service where they are not.
    """
    family = tree(service)
    forkers = [pid for pid in family if "forkserver" in _command(pid) and _parent(pid) == service]
    return sorted((pid for pid in family if _parent(pid) in forkers), key=lambda pid: (_started(pid), pid))


async def _settled(server: Server, before: Footprint) -> Footprint:
    """Once nothing is more than before, or after some time."""
    now, until = footprint(server.pid), time.monotonic() + SETTLE_S
    while now.leaks(before) and time.monotonic() < until:
        await asyncio.sleep(0.5)
        now = footprint(server.pid)
    return now


async def _scene() -> AsyncIterator[Pixels]:
    """Something that moves."""
    number = 0
    while True:
        frame = np.full((192, 320, 3), 60, np.uint8)
        left = 4 * number % 260
        frame[60:130, left : left + 60] = (220, 120, 40)
        yield frame
        number += 1


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_text().replace("\0", " ")
    return ""


def _parent(pid: int) -> int:
    return _stat(pid, 1)


def _started(pid: int) -> int:
    return _stat(pid, 19)


def _stat(pid: int, field: int) -> int:
    with contextlib.suppress(OSError):
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[field])
    return -1
