"""A video stream over a lossy link, in simulated time: a sender of packets, two ways, and the jitter buffer."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from streamgen.bench.link import Quality, Way
from streamgen.feedback import KeyFrameLimiter, RetransmissionLimiter
from streamgen.jitter import JitterBuffer, Packet, Picture
from streamgen.keyframe import Key

FPS = 30
PACKET_BYTES = 1200
PACKETS_OF_KEY_FRAME = 15
BETWEEN_PACKETS_S = 0.0002
HISTORY = 128


@dataclass(frozen=True)
class Released:
    """A picture that the buffer gave out."""

    number: int
    key: bool
    sent_at: float
    at: float


class LossyStream:
    """Runs for `seconds`; then `released` and the parts' counts tell what happened.

    Numbers and timestamps wrap soon after the start. `outages`: times during which nothing passes, either way. `deaf`:
    nothing that the buffer asks for reaches the sender.
    """

    def __init__(
        self,
        seconds: float,
        quality: Quality,
        seed: int,
        outages: tuple[tuple[float, float], ...] = (),
        before_wrap: int = 500,
        deaf: bool = False,
    ) -> None:
        self.buffer = JitterBuffer()
        self.released: list[Released] = []
        self.key_frames = KeyFrameLimiter()
        self.repetitions = RetransmissionLimiter()
        self._out, self._back = Way(quality, 2 * seed), Way(quality, 2 * seed + 1)
        self._outages = outages
        self._deaf = deaf
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._places = itertools.count()
        self._now = 0.0
        self._number = 65536 - before_wrap
        self._first_timestamp = 2**32 - before_wrap * 300
        self._pictures = 0
        self._history: dict[int, Packet] = {}
        self._sent_bytes = 0
        self._keys: dict[int, bool] = {}
        for picture in range(int(seconds * FPS)):
            self._at(picture / FPS, self._send_picture)
        while self._events:
            self._now, _, event = heapq.heappop(self._events)
            event()

    def freezes(self) -> list[float]:
        """Times between two pictures given out, in seconds."""
        return [after.at - before.at for before, after in itertools.pairwise(self.released)]

    def times_late(self, above: float) -> list[float]:
        """For how long latency stayed above that, each time."""
        lengths, began = [0.0], None
        for picture in self.released:
            late = picture.at - picture.sent_at > above
            if late and began is None:
                began = picture.at
            elif not late and began is not None:
                lengths.append(picture.at - began)
                began = None
        return lengths

    def latencies(self, since: float = 0.0) -> list[float]:
        """Of pictures sent from then on: from their last packet's sending to their being given out."""
        return [picture.at - picture.sent_at for picture in self.released if picture.sent_at >= since]

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._places), event))

    def _send_picture(self) -> None:
        picture = self._pictures
        key = self.key_frames.allow(self._now) or picture == 0
        self._keys[picture] = key
        count = PACKETS_OF_KEY_FRAME if key else self._random.randint(1, 8)
        for index in range(count):
            packet = Packet(
                ssrc=1,
                number=self._number,
                timestamp=(self._first_timestamp + picture * 90000 // FPS) % 2**32,
                marker=index == count - 1,
                data=picture.to_bytes(4) if index == 0 else bytes(1),
                key=Key.START if key and index == 0 else Key.NO,
            )
            self._number = (self._number + 1) % 65536
            self._at(self._now + index * BETWEEN_PACKETS_S, lambda packet=packet: self._send(packet))
        self._pictures += 1

    def _send(self, packet: Packet) -> None:
        self._history[packet.number % HISTORY] = packet
        self._sent_bytes += PACKET_BYTES
        self._pass(self._out, lambda: self._receive(packet))

    def _pass(self, way: Way, event: Callable[[], None]) -> None:
        arrival = way.arrival(self._now)
        dead = any(begin <= self._now < end for begin, end in self._outages)
        if arrival is not None and not dead:
            self._at(arrival, event)

    def _receive(self, packet: Packet) -> None:
        self._release(self.buffer.packet(self._now, packet))
        self._schedule()

    def _schedule(self) -> None:
        deadline = self.buffer.deadline
        if deadline is not None:
            self._at(max(deadline, self._now), self._tick)

    def _tick(self) -> None:
        deadline = self.buffer.deadline
        if deadline is None or deadline > self._now:
            return  # a packet came meanwhile, and another tick is scheduled
        actions = self.buffer.tick(self._now)
        self._release(actions.pictures)
        if actions.nack and not self._deaf:
            self._pass(self._back, lambda: self._repeat(actions.nack))
        if actions.pli and not self._deaf:
            self._pass(self._back, self.key_frames.ask)
        self._schedule()

    def _repeat(self, numbers: list[int]) -> None:
        for number in numbers:
            packet = self._history.get(number % HISTORY)
            if packet is None or packet.number != number:
                continue
            if self.repetitions.allow(number, PACKET_BYTES, self._sent_bytes):
                self._pass(self._out, lambda packet=packet: self._receive(packet))

    def _release(self, pictures: list[Picture]) -> None:
        for picture in pictures:
            number = int.from_bytes(picture.data[:4])
            packets = len(picture.data) - 4
            sent_at = number / FPS + packets * BETWEEN_PACKETS_S
            self.released.append(Released(number, self._keys[number], sent_at, self._now))
