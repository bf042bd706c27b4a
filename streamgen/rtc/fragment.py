"""SDP fragments of ICE: candidates that come after the offer, and new credentials (RFC 8840, section 9)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamgen.errors import OfferError
from streamgen.ice import MAX_CANDIDATES
from streamgen.rtc.offer import is_ice_password, is_ice_user, is_usable

MAX_LINES = 200


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address of the other side."""

    mid: str
    line: str
    """What follows `a=candidate:`."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a client says about its ICE side after the offer."""

    user: str
    """ice-ufrag; empty where there is none."""
    password: str
    """ice-pwd; empty where there is none."""
    candidates: tuple[Candidate, ...]
    """Those to which packets can be sent."""
    complete: bool
    """Whether there will be no more of this generation."""

    @classmethod
    def parse(cls, text: str) -> Fragment:
        """Raises OfferError for what is no such fragment."""
        lines = text.splitlines()
        if len(lines) > MAX_LINES:
            raise OfferError(f"the fragment has more than {MAX_LINES} lines")
        values: dict[str, str] = {}
        candidates: list[Candidate] = []
        mid = ""
        for line in lines:
            name, _, value = line.removeprefix("a=").partition(":")
            if not line or line.startswith("m="):
                continue
            if not line.startswith("a="):
                raise OfferError("the fragment has lines that are neither attributes nor media sections")
            if name == "mid":
                mid = value
            elif name == "candidate":
                candidates.append(Candidate(mid, value))
            else:
                values.setdefault(name, value)
        user, password = values.get("ice-ufrag", ""), values.get("ice-pwd", "")
        if (user and not is_ice_user(user)) or (password and not is_ice_password(password)):
            raise OfferError("the fragment has no valid ice-ufrag and ice-pwd")
        if len(candidates) > MAX_CANDIDATES:
            raise OfferError(f"the fragment has more than {MAX_CANDIDATES} candidates")
        if any(len(candidate.line.split()) < 8 for candidate in candidates):
            raise OfferError("the fragment has a broken candidate")
        usable = tuple(candidate for candidate in candidates if is_usable(candidate.line))
        return cls(user, password, usable, "end-of-candidates" in values)


def fragment(user: str, password: str, mid: str, candidates: Iterable[str]) -> str:
    """The answer to a restart: our own new credentials and candidates, which are complete."""
    lines = [
        f"a=ice-ufrag:{user}",
        f"a=ice-pwd:{password}",
        "m=video 9 UDP/TLS/RTP/SAVPF 0",
        f"a=mid:{mid}",
        *(f"a=candidate:{candidate}" for candidate in candidates),
        "a=end-of-candidates",
    ]
    return "".join(f"{line}\r\n" for line in lines)
