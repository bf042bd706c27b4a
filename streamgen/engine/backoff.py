"""How long to wait before the next attempt."""

from __future__ import annotations


class Backoff:
    """Waits that double from the first (s) to the longest."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def wait(self, passed: float = 0.0) -> float:
        """Seconds before this attempt, of which `passed` are over; the next one's are twice as many."""
        wait, self._next = self._next, min(self._next * 2, self._longest)
        return max(0.0, wait - passed)

    def reset(self) -> None:
        """An attempt was a success: from the first again."""
        self._next = self._first
