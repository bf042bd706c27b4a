"""Who waits for room, and whose turn it is: classes first, then fairly between clients, then by arrival. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

REMEMBERED = 20
"""Sessions that left lately, whose lengths the estimates are made from."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """A session that waits for room."""

    session: str
    client: str
    """Whose it is: clients with fewer sessions go first."""
    batch: bool
    """Live sessions go before it."""
    since: float
    """When it came (s)."""


@dataclass(slots=True)
class WaitingRoom:
    """The queue. Belongs to the loop; knows no clock."""

    waiters: dict[str, Waiter] = field(default_factory=dict)
    """By session, in the order of arrival."""
    _lengths: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def __len__(self) -> int:
        return len(self.waiters)

    def enter(self, waiter: Waiter) -> None:
        """Waits from now on."""
        self.waiters[waiter.session] = waiter

    def leave(self, session: str) -> None:
        """Waits no longer, if it did."""
        self.waiters.pop(session, None)

    def left(self, seconds: float) -> None:
        """A session that had been admitted ended, after so long."""
        self._lengths.append(seconds)

    def order(self, held: Mapping[str, int]) -> list[Waiter]:
        """All who wait, the next first. `held`: how many sessions each client has been granted.

        Of two clients the one with fewer sessions goes first, those that stand before in this queue counted.
        """
        counts = Counter(dict(held))
        left = list(self.waiters.values())
        ordered: list[Waiter] = []
        while left:
            chosen = min(left, key=lambda waiter: (waiter.batch, counts[waiter.client], waiter.since))
            left.remove(chosen)
            counts[chosen.client] += 1
            ordered.append(chosen)
        return ordered

    def estimate(self, position: int, admitted: int) -> float | None:
        """Seconds until the one at `position` (1: the next) may come in; None where nothing left yet to tell by."""
        if not self._lengths or not admitted:
            return None
        mean = sum(self._lengths) / len(self._lengths)
        return position * mean / admitted
