from __future__ import annotations

import asyncio
import re
from functools import cache

import pytest
from aiortc import RTCPeerConnection

from streamgen.errors import OfferError
from streamgen.rtc.offer import MAX_CANDIDATES, MAX_CODECS, MAX_LINES, MAX_MEDIA, MAX_OFFER_BYTES, Offer


async def make_offer(*, audio: bool = False, split: bool = False) -> str:
    client = RTCPeerConnection()
    client.createDataChannel("control")
    if audio:
        client.addTransceiver("audio")
    if split:
        client.addTransceiver("video", direction="sendonly")
        client.addTransceiver("video", direction="recvonly")
    else:
        client.addTransceiver("video")
    await client.setLocalDescription(await client.createOffer())
    sdp = client.localDescription.sdp
    await client.close()
    return sdp


@cache
def offer(audio: bool = False, split: bool = False) -> str:
    return asyncio.run(make_offer(audio=audio, split=split))


def mid_of(sdp: str, section: int) -> str:
    return re.findall(r"a=mid:(\S+)", sdp)[section]


def test_one_video_section_for_both_ways() -> None:
    parsed = Offer.parse(offer())
    assert parsed.source == parsed.sink == mid_of(offer(), 0)


def test_two_video_sections_one_for_each_way() -> None:
    parsed = Offer.parse(offer(split=True))
    assert (parsed.source, parsed.sink) == (mid_of(offer(split=True), 0), mid_of(offer(split=True), 1))


def test_a_client_that_only_sends() -> None:
    parsed = Offer.parse(offer().replace("a=sendrecv", "a=sendonly"))
    assert parsed.sink is None


def test_audio_beside_video_is_fine() -> None:
    assert Offer.parse(offer(audio=True)).source == mid_of(offer(audio=True), 1)


def test_port_0_rejects_a_section_unless_it_is_bundle_only() -> None:
    """As GStreamer offers with bundle-policy max-bundle."""
    whole = offer(audio=True)
    rejected = re.sub(r"m=video \d+", "m=video 0", whole)
    assert Offer.parse(rejected).source is None
    mid = mid_of(whole, 1)
    assert Offer.parse(rejected.replace(f"a=mid:{mid}\r\n", f"a=mid:{mid}\r\na=bundle-only\r\n")).source == mid


@pytest.mark.parametrize(
    "candidate",
    [
        "1 1 udp 2130706431 3f2a1c.local 50000 typ host",
        "1 1 tcp 2130706431 192.0.2.7 9 typ host tcptype active",
        "1 2 udp 2130706431 192.0.2.7 50000 typ host",
        "1 1 udp 2130706431 224.0.0.1 50000 typ host",
        "1 1 udp 2130706431 0.0.0.0 50000 typ host",
        "1 1 udp 2130706431 192.0.2.7 0 typ host",
        "1 1 udp 2130706431 192.0.2.7 99999 typ host",
        "1 1 udp 2130706431 192.0.2.7 -5 typ host",
        "1 1 udp 2130706431 example.org 50000 typ host",
        "1 1 udp 2130706431 192.0.2.7 50000 typ prflx",
    ],
)
def test_candidates_that_cannot_be_used_are_left_out(candidate: str) -> None:
    parsed = Offer.parse(offer() + f"a=candidate:{candidate}\r\n")
    assert candidate not in parsed.sdp
    assert parsed.sdp.count("a=candidate") == offer().count("a=candidate")


def test_usable_candidates_stay() -> None:
    candidates = (
        "1 1 udp 2130706431 192.0.2.7 50000 typ host",
        "2 1 UDP 16777215 2001:db8::7 50000 typ relay raddr :: rport 9",
    )
    lines = "".join(f"a=candidate:{candidate}\r\n" for candidate in candidates)
    assert all(candidate in Offer.parse(offer() + lines).sdp for candidate in candidates)


def without(pattern: str) -> str:
    return re.sub(pattern, "", offer(), flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("sdp", "why"),
    [
        ("", "no section"),
        ("hello", "no section"),
        ("v=0\r\nm=video", "not valid SDP"),
        ("v=x\r\n", "not valid SDP"),
        (offer().replace("m=video", "m=text"), "kind 'text'"),
        (offer().replace("m=video", "m=audio"), "no section"),
        (offer().replace("a=sendrecv", "a=recvonly"), "no section"),
        (re.sub(r"m=video \d+", "m=video 0", offer()), "no section"),
        (without(r"^a=fingerprint.*\r\n"), "fingerprint"),
        (without(r"^a=setup.*\r\n"), "fingerprint"),
        (offer().replace("a=setup:actpass", "a=setup:maybe"), "not valid SDP"),
        (without(r"^a=ice-ufrag.*\r\n"), "ice-ufrag"),
        (without(r"^a=ice-pwd.*\r\n"), "ice-ufrag"),
        (re.sub(r"a=ice-ufrag:.*", "a=ice-ufrag:" + "x" * 10_000, offer()), "ice-ufrag"),
        (without(r"^a=rtcp-mux\r\n"), "rtcp-mux"),
        (without(r"^a=mid.*\r\n"), "a=mid"),
        (without(r"^a=sctp-port.*\r\n"), "data channel"),
        (re.sub(r"a=group:BUNDLE.*", "a=group:BUNDLE 77 78", offer()), "BUNDLE"),
        (offer() + "a=candidate:1 1 udp\r\n", "not valid SDP"),
        (offer() + "a=candidate:1 1 udp 1 192.0.2.7 5000 typ host\r\n" * (MAX_CANDIDATES + 1), "candidates"),
        (offer() + "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n" * MAX_MEDIA, "media sections"),
        (offer() + "a=x\r\n" * MAX_LINES, "lines"),
        (offer() + "a=rtpmap:96 VP8/90000\r\n" * MAX_CODECS, "codecs"),
        (offer() + "a=" + "x" * MAX_OFFER_BYTES, "128 KB"),
        (offer() + "a=x:\ud800", "not valid SDP"),
    ],
)
def test_bad_offers_are_refused_with_what_is_wrong(sdp: str, why: str) -> None:
    with pytest.raises(OfferError, match=re.escape(why)):
        Offer.parse_sender(sdp)


def test_sound_is_found_beside_video() -> None:
    parsed = Offer.parse(offer(audio=True))
    assert parsed.audio_source == parsed.audio_sink == mid_of(offer(audio=True), 0)
    assert Offer.parse(offer()).audio_source is None


def test_a_viewer_takes_and_need_not_send() -> None:
    parsed = Offer.parse_viewer(offer().replace("a=sendrecv", "a=recvonly"))
    assert (parsed.source, parsed.sink) == (None, mid_of(offer(), 0))
    with pytest.raises(OfferError, match="takes video"):
        Offer.parse_viewer(offer().replace("a=sendrecv", "a=sendonly"))


def test_damaged_offers_are_refused_or_taken_and_nothing_else() -> None:
    lines = offer(audio=True).splitlines(keepends=True)
    damaged = ["".join(lines[:i] + lines[i + 1 :]) for i in range(len(lines))]
    damaged += ["".join(lines[:i]) for i in range(len(lines))]
    damaged += [
        "".join([*lines[:i], lines[i][: len(lines[i]) // 2] + "\r\n", *lines[i + 1 :]]) for i in range(len(lines))
    ]
    refused = 0
    for sdp in damaged:
        try:
            Offer.parse(sdp)
        except OfferError:
            refused += 1
    assert 0 < refused < len(damaged)
