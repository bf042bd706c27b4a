"""The media plane by itself: stamped pictures through the preset without a model, and through a stock aiortc echo."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import av
import numpy as np

from streamgen.bench import scenes, stock
from streamgen.bench.barcode import WIDE, Barcode, Pixels
from streamgen.bench.footprint import cpu_seconds
from streamgen.bench.link import Link, Quality
from streamgen.bench.measure import Log, Sample
from streamgen.bench.server import Server
from streamgen.client import Client, Session
from streamgen.errors import ConfigError, ConnectError

FPS = 30.0
"""Of aiortc's own track, which sets the pace for both."""
WARM_UP_S = 2.0
"""Left out of the figures: encoders begin with key frames, and estimates of the bandwidth with a guess."""
SCENE_FRAMES = 60
MIN_WIDTH, MIN_HEIGHT = WIDE.width, 64
FREEZE_INTERVALS = 3
"""Results further apart than so many frame intervals are a freeze."""
NORMAL = 1.5
"""Latency is normal again where it is below so many medians."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent."""

    width: int
    height: int
    codec: str

    @classmethod
    def parse(cls, text: str) -> Case:
        """Of 832x480/h264. Raises ConfigError."""
        size, _, codec = text.lower().partition("/")
        width, _, height = size.partition("x")
        if not (width.isdecimal() and height.isdecimal() and codec in ("h264", "vp8")):
            raise ConfigError(f"a case is written WIDTHxHEIGHT/h264 or /vp8, not {text!r}")
        case = cls(int(width), int(height), codec)
        if case.width < MIN_WIDTH or case.height < MIN_HEIGHT or case.width % 2 or case.height % 2:
            raise ConfigError(f"pictures have an even size of {MIN_WIDTH}x{MIN_HEIGHT} or more, not {width}x{height}")
        return case

    def __str__(self) -> str:
        return f"{self.width}x{self.height}/{self.codec}"


@dataclass(slots=True)
class Side:
    """What was seen of one of the two, over all rounds."""

    samples: list[list[Sample]] = field(default_factory=list)
    """Of each round, without the warm-up."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """When each round began and ended, on the clock of its samples (s)."""
    cpu_s: float = 0.0
    """That the server took, without the warm-up."""
    client_cpu_s: float = 0.0
    """That this process took meanwhile."""
    seconds: float = 0.0
    sent: int = 0

    def figures(self) -> dict[str, float]:
        """Latencies in ms; cpu of the server and of this client in cores; results a second, and as a share of frames
        sent (back).

        Raises ConnectError where there was no result at all.
        """
        latencies = np.array([sample.latency for samples in self.samples for sample in samples]) * 1000
        if not len(latencies):
            raise ConnectError("no frame came back after the warm-up")
        p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
        return {
            "p50": round(float(p50), 2),
            "p95": round(float(p95), 2),
            "p99": round(float(p99), 2),
            "cpu": round(self.cpu_s / self.seconds, 3),
            "client_cpu": round(self.client_cpu_s / self.seconds, 3),
            "fps": round(len(latencies) / self.seconds, 2),
            "back": round(len(latencies) / max(self.sent, 1), 3),
        }

    def steadiness(self) -> dict[str, float]:
        """Of the worst round, in ms: the median of the first and the last quarter, the longest freeze, and the longest
        time from the end of a freeze until latency was normal."""
        quarters = [np.array_split([1000 * sample.latency for sample in samples], 4) for samples in self.samples]
        worst = max(quarters, key=lambda it: float(np.median(it[-1]) - np.median(it[0])))
        return {
            "first_quarter_p50": round(float(np.median(worst[0])), 2),
            "last_quarter_p50": round(float(np.median(worst[-1])), 2),
            "longest_freeze": round(1000 * max(map(longest_freeze, self.samples, self.spans)), 1),
            "back_to_normal": round(1000 * max(back_to_normal(samples) for samples in self.samples), 1),
        }


def longest_freeze(samples: list[Sample], span: tuple[float, float]) -> float:
    """Seconds without a result, at most, from the beginning of a round to its end."""
    times = [span[0], *(sample.received for sample in samples), span[1]]
    return max(b - a for a, b in itertools.pairwise(times))


def back_to_normal(samples: list[Sample]) -> float:
    """Seconds from the end of a freeze to the first result that is no later than usual, at most."""
    usual = NORMAL * float(np.median([sample.latency for sample in samples])) + 1 / FPS
    longest, since = 0.0, None
    for a, b in itertools.pairwise(samples):
        if b.received - a.received > FREEZE_INTERVALS / FPS and since is None:
            since = b.received
        if since is not None and b.latency <= usual:
            longest, since = max(longest, b.received - since), None
    return longest if since is None else max(longest, samples[-1].received - since)


async def measure_ours(
    server: Server, case: Case, seconds: float, side: Side, link: Quality | None = None, reading_s: float = 0.0
) -> None:
    """One round through our service and our client. `reading_s`: what a reader does with each result (s)."""
    log, barcode = _log(), Barcode(case.width)
    pictures = await _scene(case)
    async with Client(server.url) as client, AsyncExitStack() as stack:
        session = await client.open(
            _stamped(pictures, log, barcode, WARM_UP_S + seconds),
            fps=FPS,
            buffer=1 if reading_s else 64,
            codec=case.codec,
            width=case.width,
            height=case.height,
            max_kbps=6000,
        )
        await stack.enter_async_context(session)
        if link is not None:
            await stack.enter_async_context(Link(session.rtc, out=link, into=link, seed=len(side.samples)))
        async with _counted(side, server.pid, log, seconds):
            await _read(session, log, barcode, reading_s)


async def _read(session: Session, log: Log, barcode: Barcode, reading_s: float) -> None:
    async for frame in session.frames():
        received = time.monotonic() if reading_s else frame.received
        log.result(barcode.read(frame.pixels), received, frame.media_time)
        if reading_s:
            await asyncio.sleep(reading_s)


async def measure_stock(case: Case, seconds: float, side: Side) -> None:
    """One round through aiortc's echo."""
    log, barcode = _log(), Barcode(case.width)
    pictures = await _scene(case)

    def read(frame: av.VideoFrame, received: float) -> None:
        pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
        log.result(barcode.read(pixels), received, float(frame.time or 0.0))

    stamped = _stamped(pictures, log, barcode, WARM_UP_S + seconds)
    async with stock.echo(stamped, case.codec, read) as pid, _counted(side, pid, log, seconds):
        await asyncio.sleep(WARM_UP_S + seconds + 1.0)


@asynccontextmanager
async def _counted(side: Side, pid: int, log: Log, seconds: float) -> AsyncIterator[None]:
    """Adds what happens within, from the end of the warm-up on, to `side`."""
    marks: list[tuple[float, float, float]] = []

    async def mark() -> None:
        for wait in (WARM_UP_S, seconds):
            await asyncio.sleep(wait)
            marks.append((time.monotonic(), cpu_seconds(pid), time.process_time()))

    marking = asyncio.create_task(mark())
    try:
        yield
        await marking
    finally:
        marking.cancel()
    (began, cpu_before, own_before), (ended, cpu_after, own_after) = marks
    start, end = began - log.started, ended - log.started
    side.samples.append([sample for sample in log.samples if start <= sample.received <= end])
    side.spans.append((start, end))
    side.cpu_s += cpu_after - cpu_before
    side.client_cpu_s += own_after - own_before
    side.seconds += ended - began
    side.sent += sum(began <= sent <= ended for sent in log.sent)


def _log() -> Log:
    now = time.monotonic()
    return Log(source=0, started=now, opened=now)


async def _scene(case: Case) -> list[Pixels]:
    """Made before the clock runs: drawing them is no part of what is measured."""
    drawn = scenes.synthetic(case.width, case.height)
    return await asyncio.to_thread(lambda: list(itertools.islice(drawn, SCENE_FRAMES)))


def _stamped(pictures: list[Pixels], log: Log, barcode: Barcode, seconds: float) -> Iterator[Pixels]:
    first = time.monotonic()
    for picture in itertools.cycle(pictures):
        now = time.monotonic()
        if not log.sent:
            first = now
        if now - first > seconds:
            return
        barcode.draw(picture, log.stamp(now))
        yield picture
