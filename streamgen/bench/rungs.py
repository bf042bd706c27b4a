"""The ladder of quality, as one session saw it: which rung it was on, from when on, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streamgen.client import Quality

NOT_SAID = "not said"


@dataclass(frozen=True, slots=True)
class Step:
    """From `at` (s, since the run's start) on the session is on `rung`."""

    at: float
    rung: int
    reason: str
    """Empty where the session began."""


@dataclass(frozen=True, slots=True)
class RungTimes:
    """A ladder's use, for the report."""

    rungs: int = 1
    """How many there are."""
    changes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Why they were made: {"load": 3, "room": 2}."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Spent on each rung, by its number."""

    @staticmethod
    def together(sessions: Sequence[RungTimes]) -> RungTimes:
        """Those of several sessions, summed."""
        reasons: Counter[str] = Counter()
        seconds: dict[str, float] = {}
        for session in sessions:
            reasons.update(session.reasons)
            for rung, spent in session.seconds.items():
                seconds[rung] = seconds.get(rung, 0.0) + spent
        return RungTimes(
            rungs=max((session.rungs for session in sessions), default=1),
            changes=sum(session.changes for session in sessions),
            reasons=dict(reasons),
            seconds=_sorted(seconds),
        )


@dataclass(slots=True)
class Rungs:
    """What the service told of it. A session that hears nothing is on rung 0, which is what was asked for."""

    steps: list[Step] = field(default_factory=list)
    """In the order of time, each another rung than the one before."""
    count: int = 1
    """How many rungs there are."""
    heard: bool = False

    def told(self, quality: Quality, at: float) -> None:
        """The service said so at `at` (s, since the run's start)."""
        self._take(quality.rung, quality.rungs, at, quality.reason)

    def seen(self, plan: Mapping[str, object], at: float) -> None:
        """What the statistics show: where the session began, and changes of which nothing was said."""
        rung, count = plan.get("rung"), plan.get("rungs")
        if not isinstance(rung, int) or not isinstance(count, int):
            return
        self._take(rung, count, at if self.heard else 0.0, NOT_SAID if self.heard else "")

    def at(self, time: float) -> int:
        """The rung at that time (s)."""
        return next((step.rung for step in reversed(self.steps) if step.at <= time), 0)

    def times(self, start: float, end: float) -> RungTimes:
        """Its use between these times (s)."""
        edges = [start, *(min(max(step.at, start), end) for step in self.steps), end]
        seconds: dict[str, float] = {}
        for rung, begin, finish in zip([0, *(step.rung for step in self.steps)], edges, edges[1:], strict=False):
            if finish > begin:
                seconds[str(rung)] = seconds.get(str(rung), 0.0) + finish - begin
        reasons = Counter(step.reason for step in self.steps if step.reason)
        return RungTimes(self.count, reasons.total(), dict(reasons), _sorted(seconds))

    def _take(self, rung: int, count: int, at: float, reason: str) -> None:
        self.count = max(self.count, count)
        self.heard = True
        if rung != (self.steps[-1].rung if self.steps else 0):
            self.steps.append(Step(at, rung, reason))


def _sorted(seconds: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(seconds.items(), key=lambda item: int(item[0])))
