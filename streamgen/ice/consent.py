"""Whether the other side is still there, and still wants what is sent to it (RFC 7675)."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from aioice import stun
from aioice.ice import CandidatePair

from streamgen.ice.settings import IceSettings

_random = random.SystemRandom()


class Consent:
    """When checks are due, what came of them, and when there is no consent any more. `now`: seconds on any clock.

    granted -- silence_s without any packet --------------------------------------------------> expired
            -- consent_s without a valid answer, in which more was sent to them than came ----> expired

    Consent is there so that nobody is flooded who does not want it. Who sends more than it gets, such as a publisher
    that gets RTCP alone, is not flooded, and may leave checks unanswered: FFmpeg's WHIP muxer never answers any.
    """

    def __init__(self, settings: IceSettings, now: float) -> None:
        self._settings = settings
        self._heard = self._granted = now
        self._received = self._sent = 0  # bytes since the last valid answer
        self._check_at = now + self._interval()
        self._open: deque[tuple[CandidatePair, bytes]] = deque()

    @property
    def expires(self) -> float:
        """When there is no consent any more, if nothing comes until then."""
        silent = self._heard + self._settings.silence_s
        return silent if self._sent <= self._received else min(silent, self._granted + self._settings.consent_s)

    @property
    def next_event(self) -> float:
        """The next check or the expiry, whichever is first."""
        return min(self._check_at, self.expires)

    def heard(self, now: float, size: int = 0) -> None:
        """Something came from the other side: so many bytes, those of checks not counted."""
        self._heard = now
        self._received += size

    def sent(self, size: int) -> None:
        """So many bytes went to the other side."""
        self._sent += size

    def granted(self, now: float) -> None:
        """A valid answer to a check came."""
        self._heard = self._granted = now
        self._received = self._sent = 0

    def due(self, now: float) -> bool:
        """Whether a check is to be sent; if so, it is taken to be sent."""
        if now < self._check_at:
            return False
        self._check_at = now + self._interval()
        return True

    def send(self, pair: CandidatePair, check: Check) -> None:
        """Sends `check` once. The answer to an earlier one is as good, so those stay open for as long as it counts."""
        while len(self._open) * self._settings.check_interval_s >= self._settings.consent_s:
            old, transaction = self._open.popleft()
            old.protocol.transactions.pop(transaction, None)
        transaction = check.request.transaction_id
        self._open.append((pair, transaction))
        pair.protocol.transactions[transaction] = check
        pair.protocol.send_stun(check.request, pair.remote_addr)

    def _interval(self) -> float:
        return self._settings.check_interval_s * _random.uniform(0.8, 1.2)


class Check(stun.Transaction):
    """A request that is sent once and never times out by itself. Calls `granted` at a valid answer."""

    def __init__(self, request: stun.Message, pair: CandidatePair, key: bytes, granted: Callable[[], None]) -> None:
        request.add_message_integrity(key)
        super().__init__(request, pair.remote_addr, pair.protocol)
        self.request = request
        self._address = pair.remote_addr
        self._key = key
        self._granted = granted

    def response_received(self, message: stun.Message, addr: tuple[str, int]) -> None:
        """Only a success from where the request went, signed with the other side's password, is an answer."""
        success = message.message_class == stun.Class.RESPONSE
        if success and addr == self._address and message.check_message_integrity(self._key):
            self._granted()
