"""What a receiver's requests may cost the sender: key frames (PLI, FIR) and repeated packets (NACK), each bounded.

The limiters read no clock and know no connection; `limit_...` hooks them into a sender of aiortc's.
"""

from __future__ import annotations

import time

from aiortc import RTCRtpSender
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpsender import RTCEncodedFrame
from aiortc.rtp import RTP_HISTORY_SIZE

KEY_FRAME_INTERVAL_S = 0.3
"""Between two key frames that were asked for, at least."""
REPETITIONS = 5
"""How often one packet is sent again at most: what a receiver asks for while that can help, over a bad link."""
SHARE = 0.5
"""Repeated bytes for each byte sent."""
CREDIT_BYTES = 64 * 1024
"""Repeated bytes beyond that: at the start, and saved up while nothing was lost. About what 0.25 s at 2 Mbit/s take."""

_HISTORY = "_RTCRtpSender__rtp_history"
_OCTETS = "_RTCRtpSender__octet_count"


class KeyFrameLimiter:
    """Merges requests: the first is answered at once, those within an interval of a key frame by one after it."""

    def __init__(self, interval_s: float = KEY_FRAME_INTERVAL_S) -> None:
        self.asked = 0
        self.made = 0
        self.pending = False
        self._interval_s = interval_s
        self._next = float("-inf")

    def ask(self) -> None:
        """A receiver asks for a key frame."""
        self.asked += 1
        self.pending = True

    def allow(self, now: float) -> bool:
        """Whether the next picture has to be a key frame; if so, it is taken to be made. Called for every picture."""
        if not self.pending or now < self._next:
            return False
        self.made += 1
        self.pending, self._next = False, now + self._interval_s
        return True


class RetransmissionLimiter:
    """Each packet a few times, and all together a share of what is sent: so it follows the bitrate without a clock."""

    def __init__(self, repetitions: int = REPETITIONS, share: float = SHARE, credit_bytes: int = CREDIT_BYTES) -> None:
        self.asked = 0
        """Packets asked for."""
        self.sent = 0
        """Of those, the ones sent again."""
        self.sent_bytes = 0
        self._repetitions = repetitions
        self._share = share
        self._credit_limit = credit_bytes
        self._credit = float(credit_bytes)
        self._seen_bytes = 0
        self._times: dict[int, tuple[int, int]] = {}  # by place in the sender's history: number, times sent again

    def allow(self, number: int, size: int, sent_bytes: int) -> bool:
        """Whether packet `number`, of `size` bytes and known to the sender, may go out once more.

        sent_bytes: of media since the stream's start, repetitions not counted.
        """
        self.asked += 1
        self._credit = min(self._credit + self._share * (sent_bytes - self._seen_bytes), self._credit_limit)
        self._seen_bytes = sent_bytes
        place = number % RTP_HISTORY_SIZE
        before, times = self._times.get(place, (number, 0))
        times = times if before == number else 0
        if times >= self._repetitions or size > self._credit:
            return False
        self._times[place] = number, times + 1
        self._credit -= size
        self.sent += 1
        self.sent_bytes += size
        return True


def limit_key_frames(sender: RTCRtpSender) -> KeyFrameLimiter | None:
    """Has `sender`, which has not started, answer requests for key frames through a limiter.

    None where this aiortc does that elsewhere; then every request makes the next picture a key frame.
    """
    if not all(hasattr(sender, name) for name in ("_send_keyframe", "_next_encoded_frame")):
        return None
    limiter = KeyFrameLimiter()
    force, next_frame = sender._send_keyframe, sender._next_encoded_frame  # noqa: SLF001

    def send_keyframe() -> None:
        limiter.ask()
        force_if_allowed()

    def force_if_allowed() -> None:
        if limiter.allow(time.monotonic()):
            force()

    async def next_encoded_frame(codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        force_if_allowed()
        return await next_frame(codec)

    sender._send_keyframe = send_keyframe  # type: ignore[method-assign]  # noqa: SLF001
    sender._next_encoded_frame = next_encoded_frame  # type: ignore[method-assign]  # noqa: SLF001
    return limiter


def limit_retransmissions(sender: RTCRtpSender) -> RetransmissionLimiter | None:
    """Has `sender` send packets again through a limiter. None where this aiortc does that elsewhere, unbounded."""
    if not all(hasattr(sender, name) for name in ("_retransmit", _HISTORY, _OCTETS)):
        return None
    limiter = RetransmissionLimiter()
    send_again = sender._retransmit  # noqa: SLF001

    async def retransmit(sequence_number: int) -> None:
        number = sequence_number & 0xFFFF  # a NACK's bit mask may run past the end, and aiortc does not wrap it
        packet = getattr(sender, _HISTORY).get(number % RTP_HISTORY_SIZE)
        if packet is None or packet.sequence_number != number:
            return
        if limiter.allow(number, len(packet.payload), getattr(sender, _OCTETS)):
            await send_again(number)

    sender._retransmit = retransmit  # type: ignore[method-assign]  # noqa: SLF001
    return limiter
