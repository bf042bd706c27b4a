"""What can be set of ICE: frozen, with the values that hold for everybody."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IceSettings:
    """Of every connection that is made with them. Times in seconds."""

    ports: tuple[int, int] | None = None
    """First and last UDP port to bind to; any free one where None."""
    loopback: bool = False
    """Whether 127.0.0.1 and ::1 are candidates too. They are in any case where the machine has no other address."""
    gather_timeout_s: float = 1.0
    """STUN and TURN servers that have not answered by then are done without."""
    check_interval_s: float = 5.0
    """Between two consent checks, plus or minus a fifth at random. RFC 7675, section 5.1 has 5, and forbids less than 4
    between two of them."""
    consent_s: float = 30.0
    """How long a consent lasts (RFC 7675, section 5.1)."""
    silence_s: float = 10.0
    """A peer of which nothing at all came for this long is gone. A live one that sends no media still sends its consent
    checks, RTCP, and answers to ours: several packets in this time, so that a lossy network is not taken for it."""
    restart_timeout_s: float = 10.0
    """A restart without a working pair by then has failed."""
    linger_s: float = 1.0
    """How long the old sockets stay open after a restart, for what is still on its way to them."""
