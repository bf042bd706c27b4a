"""How long a client goes on asking a service that has no room."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from streamgen.errors import ServiceError

USUAL_WAIT_S = 5.0
"""Where the service does not say when to ask again."""

SHORTEST_WAIT_S = 0.25

JITTER = 0.2
"""Up to this share is added to every wait: those who were refused together must not come back together."""


class Patience:
    """Says when to ask again, as long as `patience_s` seconds from `started` last. `chance` gives numbers in 0..1."""

    def __init__(self, patience_s: float, started: float, chance: Callable[[], float]) -> None:
        self._until = started + patience_s
        self._chance = chance

    def wait_s(self, refusal: ServiceError, now: float) -> float | None:
        """Seconds to wait before the next attempt, at most what is left; None where there is to be none.

        Only a lack of room (503) is waited out: what is wrong with a request does not mend itself.
        """
        left = self._until - now
        if refusal.status != httpx.codes.SERVICE_UNAVAILABLE or left < SHORTEST_WAIT_S:
            return None
        told = USUAL_WAIT_S if refusal.retry_after_s is None else refusal.retry_after_s
        return min(left, max(SHORTEST_WAIT_S, told * (1 + JITTER * self._chance())))
