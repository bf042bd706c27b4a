"""H264 of other profiles than aiortc knows, for those who offer nothing else.

aiortc takes Baseline alone, in packetization mode 1, and refuses what x264 makes by default: the profile High. But
libavcodec decodes every profile, the packets of mode 0 are among those of mode 1, and who decodes Main or High decodes
the Baseline that is sent back. So such a codec is shown to aiortc under a name that it knows, and the answer calls it
again what the offer calls it (RFC 6184, section 8.2.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from aiortc.sdp import H264Profile, parse_h264_profile_level_id

_RTPMAP = re.compile(r"a=rtpmap:(\d+) ([A-Za-z0-9-]+)/90000")
_FMTP = re.compile(r"a=fmtp:(\d+) (.*)")
_KNOWN = H264Profile.PROFILE_BASELINE, H264Profile.PROFILE_CONSTRAINED_BASELINE
_BASELINE = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"
_SAID_AGAIN = ("level-asymmetry-allowed", "packetization-mode", "profile-level-id")


@dataclass(frozen=True, slots=True)
class Profiles:
    """An offer as aiortc takes it, and what its H264 codecs were called."""

    sdp: str
    """The offer."""
    offered: Mapping[str, str]
    """Format parameters, by payload type, of those that have another name in `sdp`."""

    @classmethod
    def of(cls, sdp: str) -> Self:
        """Of an offer. Media sections with a codec that aiortc knows stay as they are."""
        sections = re.split(r"^(?=m=)", sdp, flags=re.MULTILINE)
        offered: dict[str, str] = {}
        for section in sections:
            if section.startswith("m=video"):
                offered |= _unknown(section.splitlines())
        return cls("".join(f"{line}\r\n" for line in _renamed(sdp.splitlines(), offered)), offered)

    def restore(self, answer: str) -> str:
        """The answer with the names of the offer."""
        return "".join(f"{line}\r\n" for line in self._restored(answer.splitlines()))

    def _restored(self, lines: list[str]) -> Iterator[str]:
        for line in lines:
            format_ = _FMTP.match(line)
            if format_ is None or format_[1] not in self.offered:
                yield line
                continue
            words = self.offered[format_[1]].split(";")
            again = [word.strip() for word in words if word.partition("=")[0].strip().lower() in _SAID_AGAIN]
            if again:
                yield f"a=fmtp:{format_[1]} {';'.join(again)}"


def _unknown(lines: list[str]) -> dict[str, str]:
    """Format parameters of a video section's H264 codecs by payload type; none where aiortc knows one of its codecs."""
    codecs = {found[1]: found[2].lower() for line in lines if (found := _RTPMAP.match(line))}
    formats = {found[1]: found[2] for line in lines if (found := _FMTP.match(line))}
    h264 = {payload: formats.get(payload, "") for payload, codec in codecs.items() if codec == "h264"}
    if "vp8" in codecs.values() or any(map(_is_known, h264.values())):
        return {}
    if "a=sendonly" in lines:
        return h264
    return {payload: text for payload, text in h264.items() if _parameters(text)[0] == "1"}  # all that is sent


def _is_known(text: str) -> bool:
    mode, name = _parameters(text)
    try:
        profile, _ = parse_h264_profile_level_id(name)
    except ValueError:  # no such profile or level
        return False
    return mode == "1" and profile in _KNOWN


def _parameters(text: str) -> tuple[str, str]:
    """packetization-mode and profile-level-id, or what their absence means to WebRTC."""
    words = (word.partition("=") for word in text.split(";"))
    values = {name.strip().lower(): value.strip() for name, _, value in words}
    return values.get("packetization-mode", "0"), values.get("profile-level-id", "42e01f")


def _renamed(lines: list[str], offered: Mapping[str, str]) -> Iterator[str]:
    for line in lines:
        format_, codec = _FMTP.match(line), _RTPMAP.match(line)
        if format_ is not None and format_[1] in offered:
            continue
        yield line
        if codec is not None and codec[1] in offered:
            yield f"a=fmtp:{codec[1]} {_BASELINE}"
