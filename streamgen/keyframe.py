"""Where a key frame begins, by the payload of an RTP packet: nothing before it is needed to decode what follows."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from aiortc.codecs.vpx import VpxPayloadDescriptor

_SLICE_OF_KEY_FRAME, _PARAMETER_SET = 5, 7  # types of NAL units (H.264, table 7-1)
_STAP_A, _FU_A = 24, 28  # RFC 6184, section 5.2
_FU_START = 0x80


class Key(Enum):
    """What a packet says of the picture that it is a part of."""

    NO = "nothing, or no key frame"
    SLICE = "a slice of a key frame begins; what comes before it in the picture may be parameter sets"
    START = "a key frame begins, with all that it needs"


def key_of(codec: str, payload: bytes) -> Key:
    """codec: its MIME type. payload: of one RTP packet, with the codec's payload descriptor, which may be broken.

    Of a codec that is not known every packet may begin a key frame.
    """
    match codec.lower():
        case "video/vp8":
            return _key_of_vp8(payload)
        case "video/h264":
            kinds = set(_nal_types(payload))
            if _PARAMETER_SET in kinds:
                return Key.START
            return Key.SLICE if _SLICE_OF_KEY_FRAME in kinds else Key.NO
        case _:
            return Key.START


def _key_of_vp8(payload: bytes) -> Key:
    """The first octet of the first partition ends with a bit that is 0 in key frames (RFC 7741, section 4.3)."""
    try:
        descriptor, data = VpxPayloadDescriptor.parse(payload)
    except ValueError:
        return Key.NO
    begins = descriptor.partition_start == 1 and descriptor.partition_id == 0
    return Key.START if begins and data and not data[0] & 1 else Key.NO


def _nal_types(payload: bytes) -> Iterator[int]:
    """Types of the NAL units that begin in the packet."""
    if len(payload) < 2:
        return
    kind = payload[0] & 0x1F
    if kind == _FU_A:
        if payload[1] & _FU_START:
            yield payload[1] & 0x1F
    elif kind == _STAP_A:
        at = 3  # behind the header and the first unit's size
        while at < len(payload):
            yield payload[at] & 0x1F
            at += int.from_bytes(payload[at - 2 : at]) + 2
    else:
        yield kind
