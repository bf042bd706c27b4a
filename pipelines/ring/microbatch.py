"""How many rows share a pass. Pure: decided by what passes took.

One, where the DiT is bound by computing, as each would only wait for the others; more, where reading the weights takes
the time.
"""

from __future__ import annotations

SIZES = (1, 2, 4, 8)

GAIN = 0.15
"""A larger pass has to take so much less for each row."""

TRIALS = 3
"""A size is known after so many passes."""

STEP = 0.2
"""Share that the newest pass has in the average."""


class MicroBatch:
    """Seconds a row of passes of each size, lately."""

    def __init__(self) -> None:
        self._row_s: dict[int, float] = {}
        self._seen: dict[int, int] = {}

    def observe(self, rows: int, seconds: float) -> None:
        """A pass of `rows` rows through one rank's blocks took so long (s)."""
        if rows not in SIZES or seconds <= 0:
            return
        seen = self._seen[rows] = self._seen.get(rows, 0) + 1
        before = self._row_s.get(rows, seconds / rows)
        self._row_s[rows] = before + max(STEP, 1 / seen) * (seconds / rows - before)

    def most(self, able: int) -> int:
        """Rows of the next pass, where so many may go. A size that is not known yet is tried."""
        best = 1
        for size in SIZES[1:]:
            if size > able:
                break
            if self._seen.get(1, 0) >= TRIALS > self._seen.get(size, 0):
                return size
            if self._row_s.get(size, float("inf")) > (1 - GAIN) * self._row_s.get(best, 0.0):
                break
            best = size
        return best
