"""When frames are due, by their media timestamps: which to take of a source, and when to show a result. Pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

JUMP_S = 2.0
"""A media timestamp this far before its expected place begins a new time line."""


class Timeline:
    """Timestamps that only rise, where those of a source begin anew: its client came back, or its clock stood still."""

    def __init__(self) -> None:
        self._shift = Fraction(0)
        self._last: Fraction | None = None

    def place(self, time: Fraction, step: Fraction) -> Fraction:
        """Where `time` (s) goes; at least `step` (s) after the last one where it would not be after it at all."""
        placed = time + self._shift
        if self._last is not None and placed <= self._last:
            self._shift += self._last + step - placed
            placed = self._last + step
        self._last = placed
        return placed


class Decimator:
    """Takes at most a given number of frames a second of a source, evenly, by its own timestamps."""

    SLACK = 0.25
    """A frame may come this share of the interval early: cameras' timestamps tremble."""

    def __init__(self) -> None:
        self._due: float | None = None

    def take(self, media_time: float, fps: float) -> bool:
        """Whether the frame at `media_time` (s) is one of `fps` a second. Call in the order of arrival."""
        interval = 1 / fps
        if self._due is None or self._due - media_time > JUMP_S:
            self._due = media_time
        if media_time < self._due - self.SLACK * interval:
            return False
        # What the source was late by is made up for, but at most one interval of it: the mean rate holds, and a pause
        # is not followed by a burst.
        self._due = max(self._due, media_time - interval) + interval
        return True


@dataclass(slots=True)
class Group:
    """Results that came out of the engine together: a chunk."""

    finished: float
    """Seconds on the local clock."""
    first: float
    """Smallest media timestamp (s)."""
    last: float
    """Largest media timestamp (s)."""

    @property
    def transit(self) -> float:
        """Time from the media timestamp of the first frame, which waited for the others, to the coming out (s)."""
        return self.finished - self.first


class Pacer:
    """Shows results at the distances that their frames had at the source, as early as can be kept up.

    Every result is shown a delay after its media timestamp (the offset of the two clocks included). The delay is what
    all chunks lately needed but the slowest few: a hiccup is shown late instead of delaying everything after it. It
    rises at once and falls by a share of the time. Where it would hold a result longer than a chunk needs (the source
    made up for a stall, or began a new time line), it begins anew.
    """

    LATE_ONE_IN = 24
    """Of so many chunks one may be shown late, beside the slowest of all."""
    LENIENT_S = 0.008
    """A result may be late by this: half of what a screen shows one picture for."""
    WINDOW_S = 4.0
    """Chunks of this much media time count."""
    FALL = 0.15
    """Seconds per second of media time by which the delay falls, so that pictures do not visibly speed up."""
    SLACK_S = 0.3
    """A result is held for at most the span of a chunk and this: what chunks may differ by in the time they take."""

    def __init__(self) -> None:
        self._groups: deque[Group] = deque(maxlen=256)
        self._delay = 0.0

    def schedule(self, media_time: float, finished: float, latest: float = math.inf) -> float:
        """When to show the result of the frame at `media_time` (s) that came out at `finished` (s, local clock).

        Results come in the order of their frames. Never before `finished`; nor after `latest`, where it came out in
        time for that: better a little early than late.
        """
        elapsed = media_time - self._groups[-1].last if self._groups else 0.0
        self._note(media_time, finished)
        self._delay = max(self._wanted(), self._delay - self.FALL * max(0.0, elapsed))
        hold = media_time + self._delay - finished
        if hold > self._longest_hold() or hold < -JUMP_S or elapsed < -JUMP_S:
            self._groups.clear()
            self._note(media_time, finished)
            self._delay = finished - media_time
        due = max(finished, media_time + self._delay)
        return min(due, latest) if finished <= latest else due

    def _note(self, media_time: float, finished: float) -> None:
        groups = self._groups
        if groups and groups[-1].finished == finished:
            groups[-1].first = min(groups[-1].first, media_time)
            groups[-1].last = max(groups[-1].last, media_time)
        else:
            groups.append(Group(finished, media_time, media_time))
        while groups[0].last < media_time - self.WINDOW_S:
            groups.popleft()

    def _wanted(self) -> float:
        transits = sorted(group.transit for group in self._groups)
        nearly_all = transits[-min(len(transits), 2 + len(transits) // self.LATE_ONE_IN)]
        return max(transits[0], nearly_all - self.LENIENT_S)

    def _longest_hold(self) -> float:
        return max(group.last - group.first for group in self._groups) + self.SLACK_S
