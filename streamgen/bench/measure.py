"""What a latency run saw, and the figures made from it; pure arithmetic, times in seconds in and milliseconds out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass

import numpy as np

from streamgen.bench.admission import Admission, Entry
from streamgen.bench.barcode import SOURCES, WIDE, Layout, Stamp
from streamgen.bench.rungs import Rungs, RungTimes

GROWTH_WINDOW_S = 5.0

MISSED = frozenset({"late", "overload", "burst"})
"""Reasons of drops that count as misses."""
NOT_DUE = frozenset({"rate", "queued"})
"""Reasons of drops of frames for which no result was to come: there was a lower frame rate, or no room yet."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One result that came back and could be told."""

    received: float
    """s, since the run's start."""
    media_time: float
    """s, by the result's own timestamps."""
    latency: float
    """s, from the moment at which the frame was drawn to the moment at which its result had been decoded."""
    frame: int = 0
    """Which frame of its session it is the result of, from 0."""


@dataclass(slots=True)
class Log:
    """All that one session sent and got. `started` is the run's zero on the monotonic clock."""

    source: int
    started: float
    opened: float = 0.0
    """When `open` was called (s, same clock as `started`)."""
    sent: list[float] = field(default_factory=list)
    """When each frame was drawn, by its counter."""
    held: int = 0
    """Frames that were drawn and not sent, as the session waited for room."""
    arrivals: list[float] = field(default_factory=list)
    """When each result had been decoded."""
    samples: list[Sample] = field(default_factory=list)
    """Of the results that could be told."""
    unreadable: int = 0
    """Results whose barcode could not be read, or told of a frame that was never sent."""
    foreign: int = 0
    """Results with another session's barcode: must be 0."""
    layout: Layout = WIDE
    """Of its barcodes."""
    start_s: float = 0.0
    """When the session was to come, since the run's start."""
    slo_ms: float | None = None
    """Its latency budget; None where none was asked for."""
    stages: list[Mapping[str, float]] = field(default_factory=list)
    """The service's stages_ms, as they were told once a second."""
    rungs: Rungs = field(default_factory=Rungs)
    admission: Admission = field(default_factory=Admission)

    def stamp(self, now: float) -> Stamp:
        """The barcode for a frame that is drawn now; notes it as sent."""
        counter = len(self.sent)
        self.sent.append(now)
        layout = self.layout
        return Stamp(self.source % SOURCES, counter % layout.counter_range, self._clock_ms(now) % layout.clock_range_ms)

    def result(self, stamp: Stamp | None, received: float, media_time: float) -> None:
        """Takes note of one result; `stamp` is what its barcode says."""
        self.arrivals.append(received)
        self.admission.got_result(received)
        if stamp is not None and stamp.source != self.source % SOURCES:
            self.foreign += 1
            return
        frame = None if stamp is None else self._frame(stamp)
        if frame is None:
            self.unreadable += 1
            return
        self.samples.append(Sample(received - self.started, media_time, received - self.sent[frame], frame))

    def stage(self, stages_ms: Mapping[str, float]) -> None:
        """Takes note of what the service says about where time goes."""
        if stages_ms:
            self.stages.append(stages_ms)

    def _frame(self, stamp: Stamp) -> int | None:
        """Which frame it was drawn on; None where counter and clock do not belong together."""
        newest = len(self.sent) - 1
        frame = newest - (newest - stamp.counter) % self.layout.counter_range
        if frame < 0 or self._clock_ms(self.sent[frame]) % self.layout.clock_range_ms != stamp.clock_ms:
            return None
        return frame

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
    start_s: when the session was to come, since the run's start.
    slo_ms: latency budget, None where none was asked for.
    frames_due: frames for which a result was to come: sent, less those that a lower frame rate or a queue took.
    misses: of those, results that were slower than slo_ms from glass to glass, and frames that the service dropped as
        too late or too many. deadline_misses is the service's own count: of results, from arrival to hand-over.
    miss_rate: misses / frames_due.
    stages_ms: where the service's time went, {"fill", "queue", ...}: the mean of what it told.
    outside_ms: what the mean glass-to-glass has beyond all stages: both ways through codecs, network and client.
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
    start_s: float = 0.0
    slo_ms: float | None = None
    frames_due: int = 0
    misses: int | None = None
    miss_rate: float | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)
    outside_ms: float | None = None
    rungs: RungTimes = field(default_factory=RungTimes)
    admission: Entry = field(default_factory=lambda: Entry(admitted=True, queued=False, waited_s=0.0))

    def as_dict(self) -> dict[str, object]:
        """For JSON, rounded to what was measured."""
        return {name: _rounded(getattr(self, name)) for name in self.__slots__}


def figures(log: Log, counts: ServerCounts) -> Figures:
    """The report of one session."""
    first, last = _growth(log.samples)
    sent = len(log.sent) - log.held
    due = max(0, sent - _dropped(counts.drops, NOT_DUE))
    misses = _misses(log, counts.drops)
    stages = _stages(log.stages)
    ended = max([*log.arrivals[-1:], *log.sent[-1:]], default=log.started)
    return Figures(
        ttff_ms=(log.arrivals[0] - log.opened) * 1000 if log.arrivals else None,
        glass_to_glass_ms=_percentiles([sample.latency for sample in log.samples]),
        jitter_ms=_jitter(log.samples),
        fps_in=_rate(log.sent),
        fps_out=_fps_out(log),
        frames_sent=sent,
        frames_received=len(log.arrivals),
        deadline_misses=counts.deadline_misses,
        drops=dict(counts.drops),
        first_5s_p50=first,
        last_5s_p50=last,
        unreadable=log.unreadable,
        foreign=log.foreign,
        start_s=log.start_s,
        slo_ms=log.slo_ms,
        frames_due=due,
        misses=misses,
        miss_rate=None if misses is None or not due else misses / due,
        stages_ms=stages,
        outside_ms=_outside(stages, log.samples),
        rungs=log.rungs.times((log.arrivals or [ended])[0] - log.started, ended - log.started),
        admission=log.admission.entry(log.opened),
    )


def overall(logs: Sequence[Log], sessions: Sequence[Figures]) -> Figures:
    """All sessions together: latencies pooled, counts summed, rates, jitter and stages averaged, of the rest the worst.

    Sessions that were never let in count in `admission` and in sums, and are left out of averages.
    """
    drops: Counter[str] = Counter()
    for session in sessions:
        drops.update(session.drops)
    worst = max(sessions, key=lambda session: (session.last_5s_p50 or 0) - (session.first_5s_p50 or 0))
    served = [session for session in sessions if session.admission.admitted]
    budgeted = [session for session in sessions if session.misses is not None]
    misses, due = sum(it.misses or 0 for it in budgeted), sum(it.frames_due for it in budgeted)
    stages = _stages([stages for log in logs for stages in log.stages])
    return Figures(
        ttff_ms=max(_known(session.ttff_ms for session in sessions), default=None),
        glass_to_glass_ms=_percentiles([sample.latency for log in logs for sample in log.samples]),
        jitter_ms=_mean(_known(session.jitter_ms for session in sessions)),
        fps_in=_mean([session.fps_in for session in served]) or 0.0,
        fps_out=_mean([session.fps_out for session in served]) or 0.0,
        frames_sent=sum(session.frames_sent for session in sessions),
        frames_received=sum(session.frames_received for session in sessions),
        deadline_misses=sum(session.deadline_misses for session in sessions),
        drops=dict(drops),
        first_5s_p50=worst.first_5s_p50,
        last_5s_p50=worst.last_5s_p50,
        unreadable=sum(session.unreadable for session in sessions),
        foreign=sum(session.foreign for session in sessions),
        slo_ms=_common([session.slo_ms for session in sessions]),
        frames_due=sum(session.frames_due for session in sessions),
        misses=misses if budgeted else None,
        miss_rate=misses / due if due else None,
        stages_ms=stages,
        outside_ms=_outside(stages, [sample for log in logs if log.stages for sample in log.samples]),
        rungs=RungTimes.together([session.rungs for session in sessions]),
        admission=Entry.together([session.admission for session in sessions]),
    )


def _dropped(drops: Mapping[str, int], reasons: frozenset[str]) -> int:
    return sum(count for reason, count in drops.items() if reason in reasons)


def _misses(log: Log, drops: Mapping[str, int]) -> int | None:
    if log.slo_ms is None:
        return None
    slow = sum(1 for sample in log.samples if sample.latency * 1000 > log.slo_ms)
    return slow + _dropped(drops, MISSED)


def _stages(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for stages in told for name in stages)
    return {name: float(np.mean([stages[name] for stages in told if name in stages])) for name in names}


def _outside(stages: Mapping[str, float], samples: Sequence[Sample]) -> float | None:
    if not stages or not samples:
        return None
    return max(0.0, float(np.mean([sample.latency for sample in samples]) * 1000) - sum(stages.values()))


def _common(values: Sequence[float | None]) -> float | None:
    """What all have; None where they differ."""
    return values[0] if len(set(values)) == 1 else None


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
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4 if abs(value) < 1 else 2) if isinstance(value, float) else value
