"""The clock of the running service; tests pass their own."""

from __future__ import annotations

import time


class MonotonicClock:
    """Seconds that never go back."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()
