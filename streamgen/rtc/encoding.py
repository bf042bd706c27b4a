"""One codec's encoding of a session's results: made once, whoever and however many take it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
from aiortc import RTCRtpTransceiver
from aiortc.codecs.base import Encoder
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.frame import Frame
from av.packet import Packet

from streamgen.core import Clock
from streamgen.encoders import START_BITRATE, LiveEncoder, encode_with
from streamgen.feedback import KeyFrameLimiter, limit_retransmissions

CAPACITY = 8
"""Encoded pictures that wait for one viewer's sender, which only has to hand them to the network."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One picture, ready to be sent."""

    payloads: list[bytes]
    """Of its RTP packets."""
    timestamp: int
    """RTP timestamp (1/90,000 s)."""
    key: bool
    """Whether decoding can begin with it."""


class Encoding:
    """The encoder, and the seats of the viewers that take what it makes.

    Its bitrate is what the viewer with the narrowest way takes.
    """

    def __init__(self, encoder: LiveEncoder, clock: Clock) -> None:
        self._encoder = encoder
        self._clock = clock
        self._key_frames = KeyFrameLimiter()
        self._broken = False
        self.seats: set[Seat] = set()

    def seat(self) -> Seat:
        """A place for one more viewer."""
        seat = Seat(self)
        self.seats.add(seat)
        return seat

    def leave(self, seat: Seat) -> None:
        """A viewer is gone."""
        self.seats.discard(seat)
        self.follow_estimates()

    def ask_for_key_frame(self) -> None:
        """The next picture is to be one, for a viewer that comes in or has lost something."""
        self._key_frames.ask()

    @property
    def waited_for(self) -> bool:
        """Whether somebody can show nothing before the next key frame."""
        return self._key_frames.pending and self.taken

    @property
    def taken(self) -> bool:
        """Whether anybody takes pictures: seats of connections that are not up yet do not."""
        return any(seat.opened for seat in self.seats)

    def follow_estimates(self) -> None:
        """Takes up what the viewers' connections can carry, as of now."""
        estimates = [seat.estimate for seat in self.seats if seat.estimate is not None]
        self._encoder.target_bitrate = min(estimates, default=START_BITRATE)

    def begin(self) -> bool:
        """Whether the next picture, which is to be encoded now, has to be a key frame."""
        force = self._key_frames.allow(self._clock.now()) or self._broken
        self._broken = False
        return force

    def encode(self, picture: av.VideoFrame, key: bool) -> Encoded:
        """`picture` (YUV 4:2:0), ready to be given. Takes its time: for a thread, one call after the other."""
        payloads, timestamp = self._encoder.encode(picture, key)
        return Encoded(payloads, timestamp, self._encoder.made_key_frame)

    def give(self, encoded: Encoded) -> None:
        """To all seats: pictures in the order in which they were encoded, each one given or withheld."""
        for seat in self.seats:
            seat.put(encoded)

    def withhold(self) -> None:
        """A picture that was encoded is not to be shown after all: the next must not refer to it."""
        self._broken = True

    def close(self) -> None:
        """There will be no more pictures."""
        for seat in self.seats:
            seat.close()


class Seat:
    """What one viewer has not been sent yet: whole runs that begin with a key frame.

    Invariant: everything in the queue can be decoded by who got everything that left it before.
    """

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._queue: deque[Encoded] = deque()
        self._news = asyncio.Event()
        self._started = False
        self._closed = False
        self.opened = False
        """Whether the viewer is there: before that it is given nothing, and asks for nothing."""
        self.estimate: int | None = None
        """What the viewer's connection can carry (bits a second), once that is known."""

    def open(self) -> None:
        """The viewer is there; it begins with a key frame."""
        if not self.opened:
            self.opened = True
            self._encoding.ask_for_key_frame()

    def put(self, encoded: Encoded) -> None:
        """One more picture; left out where the viewer could not decode it."""
        if not self.opened or (not self._started and not encoded.key):
            return
        if len(self._queue) >= CAPACITY:
            self._queue.clear()
            if not encoded.key:
                self._started = False
                self._encoding.ask_for_key_frame()
                return
        self._started = True
        self._queue.append(encoded)
        self._news.set()

    async def next(self) -> Encoded:
        """The oldest picture; opens the seat. Raises MediaStreamError once there will be none."""
        self.open()
        while not self._queue:
            if self._closed:
                raise MediaStreamError
            self._news.clear()
            await self._news.wait()
        return self._queue.popleft()

    def lost(self) -> None:
        """The viewer has lost something that it cannot do without."""
        self._encoding.ask_for_key_frame()

    def estimated(self, bitrate: int) -> None:
        """The viewer's connection can carry so much (bits a second)."""
        self.estimate = bitrate
        self._encoding.follow_estimates()

    def leave(self) -> None:
        """The viewer is gone."""
        self.close()
        self._encoding.leave(self)

    def close(self) -> None:
        """No more pictures come."""
        self._closed = True
        self._news.set()


class EncodedTrack(MediaStreamTrack):
    """What is put on a seat, as aiortc's senders take it."""

    kind = "video"

    def __init__(self, seat: Seat) -> None:
        super().__init__()
        self._seat = seat

    async def recv(self) -> Encoded:  # type: ignore[override]  # aiortc hands it to the encoder's `pack`
        """Raises MediaStreamError once there is nothing more to send."""
        try:
            return await self._seat.next()
        except MediaStreamError:
            self.stop()
            raise


class Relay(Encoder):
    """Stands where aiortc's sender has its encoder: passes on what is encoded already, and the sender's estimates."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    @property
    def target_bitrate(self) -> int:
        """Bits a second."""
        return self._seat.estimate or START_BITRATE

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._seat.estimated(bitrate)

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Never called: a seat's track gives no frames."""
        raise NotImplementedError

    def pack(self, packet: Packet[Any]) -> tuple[list[bytes], int]:
        """Payloads and RTP timestamp of an Encoded."""
        assert isinstance(packet, Encoded)
        return packet.payloads, packet.timestamp


def send_from(seat: Seat, transceiver: RTCRtpTransceiver) -> bool:
    """Has a negotiated transceiver send what is put on `seat`. False where this aiortc is not one that we know."""
    sender = transceiver.sender
    if not encode_with(sender, Relay(seat)) or not hasattr(sender, _SEND_KEY_FRAME):
        return False
    on_lost: Callable[[], None] = seat.lost
    setattr(sender, _SEND_KEY_FRAME, on_lost)  # what a PLI or FIR of the viewer calls
    sender.replaceTrack(EncodedTrack(seat))
    limit_retransmissions(sender)
    return True


_SEND_KEY_FRAME = "_send_keyframe"
