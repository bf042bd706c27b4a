"""A receiver of aiortc's that gets over losses: it goes by `streamgen.jitter` in place of its own buffer."""

from __future__ import annotations

import asyncio
import time

from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket

from streamgen.jitter import JitterBuffer, Losses, Packet, Picture
from streamgen.keyframe import key_of

_BUFFER = "_RTCRtpReceiver__jitter_buffer"
_NACKS = "_RTCRtpReceiver__nack_generator"
_CODECS = "_RTCRtpReceiver__codecs"
_DECODER = "_RTCRtpReceiver__decoder_thread"
_TO_DECODER = "_RTCRtpReceiver__decoder_queue"
_TIMESTAMPS = "_RTCRtpReceiver__timestamp_mapper"
_METHODS = ("_run_rtcp", "_send_rtcp_nack", "_send_rtcp_pli")
_NEEDED = (_BUFFER, _NACKS, _CODECS, _DECODER, _TO_DECODER, _TIMESTAMPS, *_METHODS)


def recover_losses(receiver: RTCRtpReceiver) -> Losses | None:
    """Has `receiver`, of video and not started, ask again for what is lost, and go on from a key frame where that does
    not help. Its counts, which go on changing.

    None where this aiortc keeps things elsewhere: all works then as aiortc has it, and a picture comes a frame interval
    later.
    """
    if not all(hasattr(receiver, name) for name in _NEEDED):
        return None
    return _Recovery(receiver).losses


class _Recovery:
    """Stands where the receiver has its jitter buffer. Requests are sent by a task that lives as long as the receiver's
    RTCP task does, from `receive` to `stop`."""

    def __init__(self, receiver: RTCRtpReceiver) -> None:
        self._receiver = receiver
        self._buffer = JitterBuffer()
        self._sleeps_until = float("inf")
        self._news = asyncio.Event()
        self._run_rtcp = receiver._run_rtcp  # noqa: SLF001
        setattr(receiver, _BUFFER, self)
        setattr(receiver, _NACKS, None)  # as in receivers of audio
        receiver._run_rtcp = self._run  # type: ignore[method-assign]  # noqa: SLF001

    @property
    def losses(self) -> Losses:
        """Counts since the stream's start."""
        return self._buffer.losses

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """What the receiver calls with every packet, unwrapped and depayloaded. There may be several pictures whole at
        once, and it would take one: they go to the decoder from here."""
        codec = getattr(self._receiver, _CODECS)[packet.payload_type]
        came = Packet(
            ssrc=packet.ssrc,
            number=packet.sequence_number,
            timestamp=packet.timestamp,
            marker=bool(packet.marker),
            data=packet._data,  # type: ignore[attr-defined]  # noqa: SLF001 - aiortc hangs the payload on it
            key=key_of(codec.mimeType, packet.payload),
            payload_type=packet.payload_type,
        )
        self._decode(self._buffer.packet(time.monotonic(), came))
        deadline = self._buffer.deadline
        if deadline is not None and deadline < self._sleeps_until:
            self._news.set()
        return False, None

    async def _run(self) -> None:
        """The receiver's RTCP task, and ours beside it."""
        asking = asyncio.create_task(self._ask(), name="recover-losses")
        try:
            await self._run_rtcp()
        finally:
            asking.cancel()

    async def _ask(self) -> None:
        receiver = self._receiver
        while True:
            await self._sleep()
            actions = self._buffer.tick(time.monotonic())
            self._decode(actions.pictures)
            ssrc = self._buffer.ssrc
            if ssrc is not None and actions.nack:
                await receiver._send_rtcp_nack(ssrc, actions.nack)  # noqa: SLF001
            if ssrc is not None and actions.pli:
                await receiver._send_rtcp_pli(ssrc)  # noqa: SLF001

    async def _sleep(self) -> None:
        """Until the buffer's deadline, or an earlier one than it has now."""
        self._news.clear()
        deadline = self._buffer.deadline
        self._sleeps_until = float("inf") if deadline is None else deadline
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                await self._news.wait()
        except TimeoutError:
            return

    def _decode(self, pictures: list[Picture]) -> None:
        receiver = self._receiver
        if getattr(receiver, _DECODER) is None:
            return
        for picture in pictures:
            frame = JitterFrame(picture.data, getattr(receiver, _TIMESTAMPS).map(picture.timestamp))
            getattr(receiver, _TO_DECODER).put((getattr(receiver, _CODECS)[picture.payload_type], frame))
