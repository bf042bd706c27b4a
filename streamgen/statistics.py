"""What one session gets: counters since its start, rates and latencies of its last seconds."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Mapping

WINDOW_S = 5.0
"""Rates and latencies look back this far."""


FOR_WANT_OF_TIME = ("late", "overload")
"""Reasons to drop a frame that are misses."""

LOST_WEIGHT = 0.02
"""Of one frame in the share of those that are lost."""


class Rate:
    """Events a second over the last `WINDOW_S`."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=1024)

    def add(self, now: float) -> None:
        """Counts one event."""
        self._times.append(now)

    def per_second(self, now: float) -> float:
        """0 where nothing came lately; else measured from the first event of the window to `now`."""
        while self._times and self._times[0] < now - WINDOW_S:
            self._times.popleft()
        if len(self._times) < 2:
            return 0.0
        return (len(self._times) - 1) / max(now - self._times[0], 1e-3)


class Latencies:
    """Durations of the last `WINDOW_S`."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=1024)

    def add(self, now: float, seconds: float) -> None:
        """Adds one duration, measured at `now`."""
        self._samples.append((now, seconds))

    def summary_ms(self, now: float) -> dict[str, float]:
        """{"p50", "p95", "max"} in ms; empty where nothing came lately."""
        while self._samples and self._samples[0][0] < now - WINDOW_S:
            self._samples.popleft()
        if not self._samples:
            return {}
        ordered = sorted(seconds for _, seconds in self._samples)
        picks = {"p50": percentile(ordered, 0.5), "p95": percentile(ordered, 0.95), "max": ordered[-1]}
        return {name: round(seconds * 1000, 1) for name, seconds in picks.items()}


class Stages:
    """Where the time of the frames of the last `WINDOW_S` went: means, by stage."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, str, float, int]] = deque(maxlen=4096)

    def add(self, now: float, seconds: Mapping[str, float], frames: int = 1) -> None:
        """`frames` frames spent this time each in these stages."""
        self._samples.extend((now, stage, its_seconds, frames) for stage, its_seconds in seconds.items())

    def means_ms(self, now: float) -> dict[str, float]:
        """Mean time of a frame in each stage, in ms; empty where nothing came lately."""
        while self._samples and self._samples[0][0] < now - WINDOW_S:
            self._samples.popleft()
        sums: dict[str, float] = defaultdict(float)
        counts: Counter[str] = Counter()
        for _, stage, seconds, frames in self._samples:
            sums[stage] += seconds * frames
            counts[stage] += frames
        return {stage: round(1000 * total / counts[stage], 1) for stage, total in sums.items()}


def percentile(ordered: list[float], share: float) -> float:
    """The smallest value of `ordered` (ascending) that at least `share` of all do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


class Statistics:
    """Counts every frame once when it comes in, and once more when it goes out or is dropped."""

    def __init__(self) -> None:
        self.frames_in = 0
        self.frames_out = 0
        self.deadline_misses = 0
        self.drops: Counter[str] = Counter()
        self.rate_in = Rate()
        self.rate_out = Rate()
        self.latencies = Latencies()
        self.stages = Stages()
        self.lost = 0.0
        """Share of its frames that were lost lately for want of time."""
        self._tallied = (0, 0)

    def came_in(self, now: float) -> None:
        """A frame came from the client."""
        self.frames_in += 1
        self.rate_in.add(now)

    def went_out(self, now: float, latency_s: float, missed: bool) -> None:
        """A result was handed over, `latency_s` after its frame came in."""
        self.frames_out += 1
        self.deadline_misses += missed
        self.rate_out.add(now)
        self.latencies.add(now, latency_s)

    def dropped(self, reason: str, count: int) -> None:
        """Frames that will never go out."""
        self.drops[reason] += count
        if reason in FOR_WANT_OF_TIME:
            self._weigh(1.0, count)

    def ran(self, frames: int, late: int) -> None:
        """Frames came out of the engine, and `late` of them after their deadline."""
        self._weigh(1.0, late)
        self._weigh(0.0, frames - late)

    def tally(self) -> tuple[int, int]:
        """Frames that went out or were lost for want of time since the last call; those of them that were late."""
        lost = sum(self.drops[reason] for reason in FOR_WANT_OF_TIME)
        now = self.frames_out + lost, self.deadline_misses + lost
        before, self._tallied = self._tallied, now
        return now[0] - before[0], now[1] - before[1]

    def _weigh(self, lost: float, frames: int) -> None:
        self.lost += (lost - self.lost) * (1 - (1 - LOST_WEIGHT) ** frames)
