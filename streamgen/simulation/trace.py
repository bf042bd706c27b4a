"""When frames and clients come: drawn from seeded randomness, the same for everything that is compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from streamgen.core import Params

TREMBLE = 0.04
"""Of the interval between a camera's frames: the standard deviation of when it takes one."""


class Arrival(NamedTuple):
    """A frame of a camera."""

    media: float
    """When it was taken, by the camera's clock (s)."""
    at: float
    """When it is there, decoded (s)."""


@dataclass(frozen=True, slots=True)
class Source:
    """A camera and the way from it."""

    fps: float
    jitter_s: float = 0.0
    """Mean of what a frame's way takes longer than the shortest."""
    stall_every_s: float = math.inf
    """Mean time between stalls of the network, which holds frames back and gives them all at once."""
    stall_s: float = 0.0
    """Mean length of a stall."""

    def arrivals(self, begins: float, random: Random) -> Iterator[Arrival]:
        """Its frames from then on, in their order; without end."""
        interval = 1 / self.fps
        start = begins + random.random() * interval
        stall = begins + self._next_stall(random)
        held, last, count = 0.0, 0.0, 0
        while True:
            media = start + interval * (count + random.gauss(0.0, TREMBLE))
            count += 1
            if media > stall:
                held = media + random.expovariate(1 / self.stall_s)
                stall = held + self._next_stall(random)
            way = random.expovariate(1 / self.jitter_s) if self.jitter_s else 0.0
            last = max(last, held, media + way)  # the jitter buffer gives frames out in their order
            yield Arrival(media, last)

    def _next_stall(self, random: Random) -> float:
        return random.expovariate(1 / self.stall_every_s) if math.isfinite(self.stall_every_s) else math.inf


@dataclass(frozen=True, slots=True)
class Visit:
    """A client's stay."""

    name: str
    params: Params
    source: Source
    comes: float
    leaves: float
    returns: bool = True
    """Whether one that was refused comes again when it was told to."""


Crowd = Callable[[list[Params], float, Random], list[Visit]]
"""Visits of clients with these parameters over so many seconds. How many are there at once is the parameters' number
in the mean."""


def steady(wanted: list[Params], seconds: float, random: Random) -> list[Visit]:
    """Everybody is there all the time, with an even network."""
    return _everybody(wanted, seconds, random, lambda fps: Source(fps, jitter_s=0.001))


def jittery(wanted: list[Params], seconds: float, random: Random) -> list[Visit]:
    """Everybody is there all the time; frames come 15 ms late in the mean, some far more."""
    return _everybody(wanted, seconds, random, lambda fps: Source(fps, jitter_s=0.015))


def bursty(wanted: list[Params], seconds: float, random: Random) -> list[Visit]:
    """As jittery; and every eight seconds each network stands still for 120 ms in the mean, and makes up for it."""
    return _everybody(wanted, seconds, random, lambda fps: Source(fps, 0.015, stall_every_s=8.0, stall_s=0.12))


def churn(wanted: list[Params], seconds: float, random: Random) -> list[Visit]:
    """Clients come at random and stay for 20 s in the mean."""
    return coming(wanted, seconds, random, stay_s=20.0, busy=lambda _: 1.0)


def diurnal(wanted: list[Params], seconds: float, random: Random) -> list[Visit]:
    """Clients come and go as over a day, which lasts as long as the trace: from a fifth of the mean to 1.8 times it."""
    return coming(wanted, seconds, random, 15.0, lambda at: 1 - 0.8 * math.cos(2 * math.pi * at / seconds))


CROWDS: dict[str, Crowd] = {
    "steady": steady,
    "jittery": jittery,
    "bursty": bursty,
    "churn": churn,
    "diurnal": diurnal,
}


def _everybody(wanted: list[Params], seconds: float, random: Random, source: Callable[[float], Source]) -> list[Visit]:
    """They come within the first second, and stay."""
    return [
        Visit(f"s{number}", params, source(_drifting(params.fps, random)), random.random(), seconds)
        for number, params in enumerate(wanted)
    ]


def coming(
    wanted: list[Params], seconds: float, random: Random, stay_s: float, busy: Callable[[float], float]
) -> list[Visit]:
    """Clients that come at the rate busy(s) x len(wanted) / stay_s, busy(s) at most 2, and stay for `stay_s` in the
    mean (s). As many as there would be by then come within the first second.
    """
    visits: list[Visit] = []
    everybody = Visit("", Params(), Source(1.0), 0.0, 0.0)

    def visit(at: float) -> Visit:
        params = random.choice(wanted)
        source = Source(_drifting(params.fps, random), jitter_s=0.015)
        leaves = min(seconds, at + random.expovariate(1 / stay_s))
        name = f"s{len(visits)}"
        return replace(everybody, name=name, params=params, source=source, comes=at, leaves=leaves)

    while len(visits) < round(len(wanted) * busy(0.0)):
        visits.append(visit(random.random()))
    at, most = 1.0, 2.0
    while (at := at + random.expovariate(most * len(wanted) / stay_s)) < seconds:
        if random.random() < busy(at) / most:
            visits.append(visit(at))
    return visits


def _drifting(fps: float, random: Random) -> float:
    """A camera's clock is not ours."""
    return fps * (1 + random.gauss(0.0, 0.0002))
