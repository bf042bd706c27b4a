"""SDP offers, checked before anything is built for them: they come from anyone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aiortc.sdp import MediaDescription, SessionDescription

from streamgen.errors import OfferError
from streamgen.ice import MAX_CANDIDATES, parse_candidate, usable

MAX_OFFER_BYTES = 128 * 1024
MAX_MEDIA = 3
MAX_LINES = 1000
MAX_CODECS = 150
"""Browsers send some hundred lines and some dozens of codecs. The parser's time grows with lines times codecs."""

_ICE_USER = re.compile(r"[A-Za-z0-9+/=_-]{4,256}")
_ICE_PASSWORD = re.compile(r"[A-Za-z0-9+/=_-]{22,256}")
_DATA_PROFILES = ("UDP/DTLS/SCTP", "TCP/DTLS/SCTP", "DTLS/SCTP")
_CANDIDATE = "a=candidate:"
_PORT_ZERO = re.compile(r"^(m=\S+) 0 ")

# What aiortc's parser raises at text that is no SDP.
_PARSER_FAULTS = (ValueError, AssertionError, KeyError, IndexError, AttributeError, TypeError, StopIteration)


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer that can be answered."""

    sdp: str
    """As offered, without the candidates that cannot be used; sections that are bundled alone have a port."""
    source: str | None
    """mid of the media section in which the client sends its video; None where it sends none."""
    sink: str | None
    """mid of the media section in which the client takes video; None where it takes none."""
    audio_source: str | None
    """mid of the media section in which the client sends its sound; None where it sends none."""
    audio_sink: str | None
    """mid of the media section in which the client takes sound; None where it takes none."""
    ice_user: str
    """The client's ice-ufrag, which tells this generation of ICE from later ones."""
    mid: str
    """Of the media section whose transport all share."""

    @classmethod
    def parse(cls, text: str) -> Offer:
        """The offer in `text`. Raises OfferError that says what is wrong with it."""
        try:
            size = len(text.encode())
        except UnicodeEncodeError:  # lone surrogates, which JSON can carry
            raise OfferError("the offer is not valid SDP") from None
        if size > MAX_OFFER_BYTES:
            raise OfferError(f"the offer is larger than {MAX_OFFER_BYTES // 1024} KB")
        lines = text.splitlines()
        if len(lines) > MAX_LINES:
            raise OfferError(f"the offer has more than {MAX_LINES} lines")
        if sum(line.startswith("a=rtpmap:") for line in lines) > MAX_CODECS:
            raise OfferError(f"the offer has more than {MAX_CODECS} codecs")
        if sum(line.startswith(_CANDIDATE) for line in lines) > MAX_CANDIDATES:
            raise OfferError(f"the offer has more than {MAX_CANDIDATES} candidates")
        if sum(line.startswith("m=") for line in lines) > MAX_MEDIA:
            raise OfferError(f"the offer has more than {MAX_MEDIA} media sections")
        kept = [line for line in lines if not line.startswith(_CANDIDATE) or is_usable(line.removeprefix(_CANDIDATE))]
        sdp = "\r\n".join(_with_ports(kept)) + "\r\n"
        try:
            description = SessionDescription.parse(sdp)
        except _PARSER_FAULTS:
            raise OfferError("the offer is not valid SDP") from None
        for media in description.media:
            _check_media(media)
        _check_together(description)
        if not description.media:
            raise OfferError("the offer has no section at all")
        first = _first_of_bundle(description)
        assert first.ice is not None, "checked"
        return cls(
            sdp,
            source=_section(description, "video", "sendonly"),
            sink=_section(description, "video", "recvonly"),
            audio_source=_section(description, "audio", "sendonly"),
            audio_sink=_section(description, "audio", "recvonly"),
            ice_user=str(first.ice.usernameFragment),
            mid=first.rtp.muxId,
        )

    @classmethod
    def parse_sender(cls, text: str) -> Offer:
        """The offer of somebody who sends video. Raises OfferError."""
        offer = cls.parse(text)
        if offer.source is None:
            raise OfferError("the offer has no section in which the client sends video")
        return offer

    @classmethod
    def parse_viewer(cls, text: str) -> Offer:
        """The offer of somebody who takes video. Raises OfferError."""
        offer = cls.parse(text)
        if offer.sink is None:
            raise OfferError("the offer has no section in which the client takes video")
        return offer


def _with_ports(lines: Sequence[str]) -> list[str]:
    """Port 9 for sections marked `bundle-only`: port 0 does not mean there that they are rejected (RFC 8843, 6)."""
    found: list[str] = []
    bundle_only = False
    for line in reversed(lines):
        bundle_only = bundle_only or line == "a=bundle-only"
        if line.startswith("m="):
            found.append(_PORT_ZERO.sub(r"\1 9 ", line) if bundle_only else line)
            bundle_only = False
        else:
            found.append(line)
    return found[::-1]


def _first_of_bundle(description: SessionDescription) -> MediaDescription:
    bundled = [group.items[0] for group in description.group if group.semantic == "BUNDLE" and group.items]
    by_mid = {media.rtp.muxId: media for media in description.media}
    return by_mid[str(bundled[0])] if bundled else description.media[0]


def _section(description: SessionDescription, kind: str, direction: str) -> str | None:
    """mid of the first section of a kind in which the client does this (`sendonly`, `recvonly`), maybe among others."""
    for media in description.media:
        if media.kind == kind and media.port != 0 and media.direction in (direction, "sendrecv", None):
            return str(media.rtp.muxId)
    return None


def _check_media(media: MediaDescription) -> None:
    """Everything that aiortc would otherwise trip over later, in a task of its own."""
    if media.kind not in ("audio", "video", "application"):
        raise OfferError(f"media sections of kind {media.kind[:20]!r} are not supported")
    if media.dtls is None or not media.dtls.fingerprints:
        raise OfferError(f"the {media.kind} section has no DTLS fingerprint and setup")
    ice = media.ice
    if not (ice and is_ice_user(ice.usernameFragment or "") and is_ice_password(ice.password or "")):
        raise OfferError(f"the {media.kind} section has no valid ice-ufrag and ice-pwd")
    if media.kind == "application":
        if media.profile not in _DATA_PROFILES or (media.profile != "DTLS/SCTP" and not media.sctp_port):
            raise OfferError("the application section is no WebRTC data channel")
        if media.profile == "DTLS/SCTP" and not str(media.fmt[0]).isdecimal():
            raise OfferError("the application section names no SCTP port")
    elif not media.rtcp_mux:
        raise OfferError(f"the {media.kind} section lacks rtcp-mux")


def _check_together(description: SessionDescription) -> None:
    mids = [media.rtp.muxId for media in description.media]
    if len(set(mids)) != len(mids) or not all(mids):
        raise OfferError("the media sections lack distinct a=mid")
    if sum(media.kind == "application" for media in description.media) > 1:
        raise OfferError("the offer has more than one data channel section")
    for group in description.group:
        if group.semantic == "BUNDLE" and not set(group.items) <= set(mids):
            raise OfferError("the offer's BUNDLE group names media sections that are not there")


def is_ice_user(text: str) -> bool:
    """Whether it can be an ice-ufrag."""
    return _ICE_USER.fullmatch(text) is not None


def is_ice_password(text: str) -> bool:
    """Whether it can be an ice-pwd."""
    return _ICE_PASSWORD.fullmatch(text) is not None


def is_usable(candidate: str) -> bool:
    """Whether a candidate (what follows `a=candidate:`) names an address to which packets can be sent.

    `.local` names are left out: resolving them holds up the answer, and the client's own packets show its address.
    """
    if len(candidate.split()) < 8:
        return True  # not SDP: the parser says so
    try:
        return usable(parse_candidate(candidate))
    except OfferError:
        return False
