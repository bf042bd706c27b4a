"""Pictures a frame interval earlier: aiortc's jitter buffer gives one out only when the next one begins."""

from __future__ import annotations

from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterBuffer, JitterFrame

CAPACITY = 512  # packets, as aiortc has it for video
_BUFFER = "_RTCRtpReceiver__jitter_buffer"


class MarkerJitterBuffer(JitterBuffer):
    """Gives a picture out with its last packet, which carries the RTP marker bit (RFC 3550, section 5.1)."""

    def _remove_frame(self, sequence_number: int) -> JitterFrame | None:
        frame = super()._remove_frame(sequence_number)
        if frame is not None or self._origin is None:
            return frame
        data: list[bytes] = []
        for count in range(self.capacity):
            packet = self._packets[(self._origin + count) % self.capacity]
            if packet is None:
                return None
            data.append(packet._data)  # type: ignore[attr-defined]  # noqa: SLF001 - aiortc hangs the payload on it
            if packet.marker:
                self.remove(count + 1)
                # Padding alone is no picture: the decoder would take nothing for the end of the stream.
                return JitterFrame(b"".join(data), packet.timestamp) if any(data) else None
        return None


def release_on_marker(receiver: RTCRtpReceiver) -> bool:
    """Gives `receiver`, which has not started, such a buffer. False where this aiortc keeps its buffer elsewhere:
    all works then, a frame interval later."""
    if not hasattr(receiver, _BUFFER):
        return False
    setattr(receiver, _BUFFER, MarkerJitterBuffer(CAPACITY, is_video=True))
    return True
