"""When frames are due, by their media timestamps: which to take of a source, and when to show a result. Pure."""

from __future__ import annotations

from collections import deque

from streamgen.statistics import percentile

JUMP_S = 2.0
"""A media timestamp this far off its expected place begins a new time line."""


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


class Pacer:
    """Shows results at the distances that their frames had at the source, as early as can be kept up.

    A result's transit is the time from its media timestamp to its coming out of the engine (their clocks' offset
    included). The first frame of a chunk has the longest: it waited for the others. Shown with the delay of the slow
    transits lately, all come evenly. The delay follows what is measured: up at once, down by a share of the time.
    """

    WINDOW_S = 3.0
    """Transits of this much media time count."""
    SHARE = 0.95
    """The delay covers this share of the transits; what is slower than that is shown late."""
    FALL = 0.1
    """Seconds per second of media time by which the delay falls, so that pictures do not visibly speed up."""

    def __init__(self) -> None:
        self._transits: deque[tuple[float, float]] = deque(maxlen=512)
        self._delay = 0.0
        self._last: float | None = None

    def schedule(self, media_time: float, finished: float) -> float:
        """When to show the result of the frame at `media_time` (s) that came out at `finished` (s, local clock).

        Results come in the order of their frames; so do the answers, on the local clock. Never before `finished`.
        """
        transit = finished - media_time
        if self._last is None or self._jumped(media_time, transit):
            self._transits.clear()
            self._delay = transit
            self._last = media_time
        elapsed = max(0.0, media_time - self._last)
        self._last = max(media_time, self._last)
        self._transits.append((media_time, transit))
        while self._transits[0][0] < media_time - self.WINDOW_S:
            self._transits.popleft()
        wanted = percentile(sorted(value for _, value in self._transits), self.SHARE)
        self._delay = max(wanted, self._delay - self.FALL * elapsed)
        return max(finished, media_time + self._delay)

    def _jumped(self, media_time: float, transit: float) -> bool:
        assert self._last is not None
        return abs(transit - self._delay) > JUMP_S or media_time < self._last - JUMP_S
