"""Devices in a row that batches flow through, as they truly are: what waits before each, and who comes out when."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from streamgen.engine.work import StageTimes

WEIGHT = 0.05
"""Of the newest batch in what is usual."""


class Ring:
    """Stages, each with a queue. Lives on the clock of the running event loop.

        encode -> [ 0 ] -> [ 1 ] ... [ S-1 ] -> decode            encoding is work of the first, decoding of the last
                    ^                    |
                    +---- next step -----+

    A batch that is sooner through than one before it, in which one of its sessions has a chunk, waits for that one.
    The denoiser's blocks are always spread so that all stages take alike, by what batches have taken lately.
    """

    def __init__(self, stages: int) -> None:
        self._stages = [asyncio.Lock() for _ in range(stages)]
        self._worked = [0.0] * stages
        self._usual: tuple[float, float, float] | None = None
        """What encoding, denoising and decoding of a batch took lately (s)."""
        self._last: dict[str, asyncio.Event] = {}
        """Of each session: set when the last batch that it has a chunk in is out."""

    @property
    def busy_s(self) -> float:
        """Time that the busiest stage has worked (s)."""
        return max(self._worked)

    async def go_through(self, sessions: Collection[str], times: StageTimes) -> None:
        """Takes a batch of these sessions through; what it takes on the way, in all, is in `times`."""
        before = [self._last[session] for session in sessions if session in self._last]
        out = asyncio.Event()
        self._last |= dict.fromkeys(sessions, out)
        parts = self._balanced(times)
        await self._work(0, times.encode)
        for _ in range(times.calls):
            for stage, part in enumerate(parts):
                await self._work(stage, times.denoise / times.calls * part)
        for other in before:
            await other.wait()
        await self._work(len(self._stages) - 1, times.decode)
        out.set()

    def forget(self, session: str) -> None:
        """The session's next batch waits for none of before."""
        self._last.pop(session, None)

    def _balanced(self, times: StageTimes) -> list[float]:
        """The stages' parts of the denoiser; in all 1."""
        took = times.encode, times.denoise, times.decode
        usual = self._usual or took
        encode, denoise, decode = (old + WEIGHT * (new - old) for old, new in zip(usual, took, strict=True))
        self._usual = encode, denoise, decode
        return shares(len(self._stages), encode, denoise, decode)

    async def _work(self, stage: int, seconds: float) -> None:
        async with self._stages[stage]:
            await asyncio.sleep(seconds)
            self._worked[stage] += seconds


def shares(stages: int, encode: float, denoise: float, decode: float) -> list[float]:
    """How much of the denoiser each stage gets, so that all take alike, as far as can be: what encoding takes is taken
    off the first stage's part, and what decoding takes off the last one's. Seconds of one chunk; denoising takes some.
    """
    own = [0.0] * stages
    own[0] += encode
    own[-1] += decode
    level = 0.0
    for count, its in enumerate(sorted(own), 1):  # with so many of them at work on it, those with the least to do
        if count > 1 and its >= level:
            break
        level = (denoise + sum(sorted(own)[:count])) / count
    return [max(0.0, level - its) / denoise for its in own]
