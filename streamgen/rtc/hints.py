"""Bitrates that the answer asks the client for.

Left to itself Chromium sends 0.6 Mbit/s to aiortc and scales an 832x480 camera down to 624x360. It heeds
`x-google-*-bitrate` among a codec's format parameters; others pass over parameters that they do not know (RFC 8866,
section 6.15).
"""

from __future__ import annotations

from collections.abc import Iterator

START_KBPS, LEAST_KBPS = 2500, 1500
_CODECS = ("vp8", "h264")


def with_bitrates(sdp: str, most_kbps: int) -> str:
    """The answer `sdp` with hints at every VP8 and H264 payload type that it names, for at most so many kbit/s."""
    start, least = min(START_KBPS, most_kbps), min(LEAST_KBPS, most_kbps)
    hints = f"x-google-start-bitrate={start};x-google-min-bitrate={least};x-google-max-bitrate={most_kbps}"
    return "".join(f"{line}\r\n" for line in _lines(sdp.splitlines(), hints))


def _lines(lines: list[str], hints: str) -> Iterator[str]:
    wanted = {_payload(line) for line in lines if _is_codec(line)}
    formatted = {_payload(line) for line in lines if line.startswith("a=fmtp:")}
    for line in lines:
        if line.startswith("a=fmtp:") and _payload(line) in wanted:
            yield f"{line};{hints}"
            continue
        yield line
        if _is_codec(line) and _payload(line) not in formatted:
            yield f"a=fmtp:{_payload(line)} {hints}"


def _is_codec(line: str) -> bool:
    name = line.partition(" ")[2].partition("/")[0]
    return line.startswith("a=rtpmap:") and name.lower() in _CODECS


def _payload(line: str) -> str:
    """The payload type of an rtpmap or fmtp line; bundled sections do not share one between codecs."""
    return line.partition(":")[2].partition(" ")[0]
