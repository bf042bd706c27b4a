"""What a latency run saw, and the figures made from it; pure arithmetic, times in seconds in and milliseconds out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamgen.bench.barcode import CLOCK_RANGE_MS, COUNTER_RANGE, SOURCES, Stamp

GROWTH_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One result that came back and could be told."""

    received: float
    """s, since the run's start."""
    media_time: float
    """s, by the result's own timestamps."""
    latency: float
    """s, from the moment at which the frame was drawn to the moment at which its result had been decoded."""


@dataclass(slots=True)
class Log:
    """All that one session sent and got. `started` is the run's zero on the monotonic clock."""

    source: int
    started: float
    opened: float = 0.0
    """When `open` was called (s, same clock as `started`)."""
    sent: list[float] = field(default_factory=list)
    """When each frame was drawn, by its counter."""
    arrivals: list[float] = field(default_factory=list)
    """When each result had been decoded."""
    samples: list[Sample] = field(default_factory=list)
    """Of the results that could be told."""
    unreadable: int = 0
    """Results whose barcode could not be read, or told of a frame that was never sent."""
    foreign: int = 0
    """Results with another session's barcode: must be 0."""

    def stamp(self, now: float) -> Stamp:
        """The barcode for a frame that is drawn now; notes it as sent."""
        counter = len(self.sent)
        self.sent.append(now)
        return Stamp(self.source % SOURCES, counter % COUNTER_RANGE, self._clock_ms(now) % CLOCK_RANGE_MS)

    def result(self, stamp: Stamp | None, received: float, media_time: float) -> None:
        """Takes note of one result; `stamp` is what its barcode says."""
        self.arrivals.append(received)
        if stamp is not None and stamp.source != self.source % SOURCES:
            self.foreign += 1
            return
        drawn = None if stamp is None else self._drawn(stamp)
        if drawn is None:
            self.unreadable += 1
            return
        self.samples.append(Sample(received - self.started, media_time, received - drawn))

    def _drawn(self, stamp: Stamp) -> float | None:
        """When the frame of `stamp` was drawn; None where counter and clock do not belong together."""
        newest = len(self.sent) - 1
        counter = newest - (newest - stamp.counter) % COUNTER_RANGE
        if counter < 0 or self._clock_ms(self.sent[counter]) % CLOCK_RANGE_MS != stamp.clock_ms:
            return None
        return self.sent[counter]

    def _clock_ms(self, now: float) -> int:
        return int((now - self.started) * 1000)


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """What only the service can count."""

    deadline_misses: int
    drops: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """The report of a session, or of all together. Times in ms, None where nothing was measured.

    ttff_ms: from the call of `open` to the first result received.
    glass_to_glass_ms: from drawing a frame to having its result decoded, over all results that could be read.
    jitter_ms: mean of |time between two results' arrivals - time between their media timestamps|.
    fps_in: frames drawn a second, first to last.
    fps_out: results a second from the first result to the last frame drawn.
    first_5s_p50, last_5s_p50: median glass-to-glass of the results in the 5 s after the first one, and in the 5 s
        before the last one (half of the run where it is shorter than 10 s): equal, unless latency grows.
    """

    ttff_ms: float | None
    glass_to_glass_ms: dict[str, float | None]
    jitter_ms: float | None
    fps_in: float
    fps_out: float
    frames_sent: int
    frames_received: int
    deadline_misses: int
    drops: dict[str, int]
    first_5s_p50: float | None
    last_5s_p50: float | None
    unreadable: int
    foreign: int

    def as_dict(self) -> dict[str, object]:
        """For JSON, rounded to what was measured."""
        return {name: _rounded(getattr(self, name)) for name in self.__slots__}


def figures(log: Log, counts: ServerCounts) -> Figures:
    """The report of one session."""
    first, last = _growth(log.samples)
    return Figures(
        ttff_ms=(log.arrivals[0] - log.opened) * 1000 if log.arrivals else None,
        glass_to_glass_ms=_percentiles([sample.latency for sample in log.samples]),
        jitter_ms=_jitter(log.samples),
        fps_in=_rate(log.sent),
        fps_out=_fps_out(log),
        frames_sent=len(log.sent),
        frames_received=len(log.arrivals),
        deadline_misses=counts.deadline_misses,
        drops=dict(counts.drops),
        first_5s_p50=first,
        last_5s_p50=last,
        unreadable=log.unreadable,
        foreign=log.foreign,
    )


def overall(logs: Sequence[Log], sessions: Sequence[Figures]) -> Figures:
    """All sessions together: latencies pooled, counts summed, rates and jitter averaged, of the rest the worst."""
    drops: dict[str, int] = {}
    for session in sessions:
        for reason, count in session.drops.items():
            drops[reason] = drops.get(reason, 0) + count
    worst = max(sessions, key=lambda session: (session.last_5s_p50 or 0) - (session.first_5s_p50 or 0))
    return Figures(
        ttff_ms=max(_known(session.ttff_ms for session in sessions), default=None),
        glass_to_glass_ms=_percentiles([sample.latency for log in logs for sample in log.samples]),
        jitter_ms=_mean(_known(session.jitter_ms for session in sessions)),
        fps_in=_mean([session.fps_in for session in sessions]) or 0.0,
        fps_out=_mean([session.fps_out for session in sessions]) or 0.0,
        frames_sent=sum(session.frames_sent for session in sessions),
        frames_received=sum(session.frames_received for session in sessions),
        deadline_misses=sum(session.deadline_misses for session in sessions),
        drops=drops,
        first_5s_p50=worst.first_5s_p50,
        last_5s_p50=worst.last_5s_p50,
        unreadable=sum(session.unreadable for session in sessions),
        foreign=sum(session.foreign for session in sessions),
    )


def _percentiles(latencies: Sequence[float]) -> dict[str, float | None]:
    names = ("p50", "p95", "p99", "max")
    if not latencies:
        return dict.fromkeys(names)
    values = np.percentile(np.array(latencies) * 1000, [50, 95, 99, 100])
    return dict(zip(names, values.tolist(), strict=True))


def _jitter(samples: Sequence[Sample]) -> float | None:
    if len(samples) < 2:
        return None
    arrivals = np.diff([sample.received for sample in samples])
    media = np.diff([sample.media_time for sample in samples])
    return float(np.abs(arrivals - media).mean() * 1000)


def _growth(samples: Sequence[Sample]) -> tuple[float | None, float | None]:
    """Median latency in ms of the run's beginning and of its end."""
    if not samples:
        return None, None
    start, end = samples[0].received, samples[-1].received
    window = min(GROWTH_WINDOW_S, (end - start) / 2)
    first = [sample.latency for sample in samples if sample.received <= start + window]
    last = [sample.latency for sample in samples if sample.received >= end - window]
    return float(np.median(first) * 1000), float(np.median(last) * 1000)


def _rate(times: Sequence[float]) -> float:
    if len(times) < 2 or times[-1] <= times[0]:
        return 0.0
    return (len(times) - 1) / (times[-1] - times[0])


def _fps_out(log: Log) -> float:
    """A stream that stands still towards the end must not look fast: the time counted ends with the sending."""
    if not log.arrivals or not log.sent:
        return 0.0
    start, end = log.arrivals[0], log.sent[-1]
    within = sum(1 for arrival in log.arrivals if start < arrival <= end)
    return within / (end - start) if end > start else 0.0


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 2) if isinstance(value, float) else value
