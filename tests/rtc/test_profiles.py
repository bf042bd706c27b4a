from __future__ import annotations

import re

import pytest
from aiortc.sdp import SessionDescription

from streamgen.rtc.profiles import Profiles
from tests.support.stage import PARAMS, Stage
from tests.support.webrtc import client, no_leaks, until

HIGH = "packetization-mode=1;profile-level-id=64001f"


def section(*codecs: str, direction: str = "sendonly", kind: str = "video") -> str:
    """Codecs as `H264 packetization-mode=1`, with payload types from 96 on."""
    lines = [f"m={kind} 9 UDP/TLS/RTP/SAVPF 96", f"a={direction}"]
    for payload, codec in enumerate(codecs, 96):
        name, _, parameters = codec.partition(" ")
        lines += [f"a=rtpmap:{payload} {name}/90000", *([f"a=fmtp:{payload} {parameters}"] if parameters else [])]
    return "v=0\r\n" + "".join(f"{line}\r\n" for line in lines)


@pytest.mark.parametrize(
    "codecs",
    [
        ["VP8", f"H264 {HIGH}"],
        ["H264 packetization-mode=1;profile-level-id=42e01f", f"H264 {HIGH}"],
        [f"H264 {HIGH}", "H264 level-asymmetry-allowed=1; packetization-mode=1; profile-level-id=42C028"],
        ["H265", "AV1"],
    ],
)
def test_what_is_known_stays_as_it_is(codecs: list[str]) -> None:
    offer = section(*codecs)
    assert Profiles.of(offer) == Profiles(offer, {})


@pytest.mark.parametrize(
    "parameters",
    [
        HIGH,
        "packetization-mode=1;profile-level-id=640C1F",
        "profile-level-id=4d0028; packetization-mode=1; level-asymmetry-allowed=1",
        "packetization-mode=1;profile-level-id=42e03e",  # level 6.2
        "packetization-mode=0;profile-level-id=42e01f",
        "profile-level-id=42e01f",
        "packetization-mode=1;profile-level-id=nonsense",
        "",
    ],
)
def test_another_profile_is_shown_as_baseline_and_answered_as_offered(parameters: str) -> None:
    offer = section("H265", f"H264 {parameters}".strip(), "rtx apt=97")
    profiles = Profiles.of(offer)
    (media,) = SessionDescription.parse(profiles.sdp).media
    shown = next(codec for codec in media.rtp.codecs if codec.name == "H264")
    assert (shown.payloadType, shown.parameters["profile-level-id"]) == (97, "42e01f")
    assert shown.parameters["packetization-mode"] == "1"
    assert profiles.sdp.count("a=fmtp:97") == 1
    assert "a=fmtp:98 apt=97" in profiles.sdp
    again = re.findall(r"a=fmtp:97 (.*)\r\n", profiles.restore(profiles.sdp))
    assert again == ([parameters.replace("; ", ";")] if parameters else [])


def test_parameter_sets_are_not_said_again() -> None:
    profiles = Profiles.of(section(f"H264 {HIGH};sprop-parameter-sets=Z0IA,aM48"))
    assert f"a=fmtp:96 {HIGH}\r\n" in profiles.restore(profiles.sdp)


def test_who_takes_packetization_mode_0_alone_is_not_sent_mode_1() -> None:
    offer = section("H264 packetization-mode=0;profile-level-id=64001f", direction="recvonly")
    assert Profiles.of(offer) == Profiles(offer, {})
    assert Profiles.of(section(f"H264 {HIGH}", direction="recvonly")).offered == {"96": HIGH}


def test_other_media_are_left_alone() -> None:
    offer = section(f"H264 {HIGH}", kind="audio")
    assert Profiles.of(offer) == Profiles(offer, {})


async def test_a_client_of_another_profile_sends_and_takes_pictures() -> None:
    stage = Stage()
    async with no_leaks(), client(codec="H264") as peer:
        offer = re.sub(r"profile-level-id=42[0-9a-f]{4}", "profile-level-id=64001f", await peer.offer())
        opened = await stage.service.open(offer, PARAMS)
        answered = re.findall(r"profile-level-id=(\w+)", opened.sdp)
        assert set(answered) == {"64001f"}
        await peer.accept(opened.sdp.replace("64001f", "42e01f"))
        await until(lambda: len(peer.frames) > 5)
        await stage.stop()
