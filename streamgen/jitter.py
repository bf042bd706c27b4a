"""Pictures out of packets: each with its last packet; over losses by asking again, else from the next key frame on.

aiortc's own buffer gives a picture out when the next one begins, which costs a frame interval; and what its receiver
asked for once without success blocks that buffer until it overflows. Here nothing reads a clock or the network: `now`
is given, in seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamgen.keyframe import Key

CAPACITY = 512
"""Packets held at most, as aiortc has it for video."""
FAR = 1000
"""Packets; a number so far behind is a new count's, not a late packet's."""
MEMORY = 128
"""How many packets back a sender is asked; aiortc's remember no more."""

ASK_AGAIN_S, ASK_URGENTLY_S = 0.03, 0.02
"""Between two requests for a packet, and where the one before was in vain already: at least."""
PATIENCE_S, MOST_PATIENCE_S = 0.12, 0.3
"""How long a gap holds up pictures: at least, and over links with a long way back at most."""
PLI_AGAIN_S = 0.25
"""Between two requests for a key frame."""

REORDERED_S = 0.01
"""A packet that is missing for no longer than this was overtaken, not lost."""

_MARGIN_S = 0.003  # by which an answer may be later than the shortest that came
_NEVER = float("-inf")


@dataclass(slots=True)
class Losses:
    """Counts since the stream's start. Packets by their number in the sequence: a repetition counts for nothing."""

    packets: int = 0
    """That came."""
    missing: int = 0
    """That did not come in their turn, lost or only late."""
    recovered: int = 0
    """Of those, the ones that came while they were still of use."""
    given_up: int = 0
    """Of those, the ones that were not waited for any longer."""
    requests: int = 0
    """Packets asked for, each as often as it was (NACK)."""
    flushes: int = 0
    """How often a gap was given up while pictures were waiting behind it."""
    pictures_dropped: int = 0
    """Of which something came, but which refer to lost ones."""
    key_frame_requests: int = 0
    """Picture loss indications (PLI)."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One RTP packet of a video stream."""

    ssrc: int
    number: int
    """Sequence number, 16 bits."""
    timestamp: int
    marker: bool
    """Whether it is its picture's last (RFC 3550, section 5.1)."""
    data: bytes
    """Its share of the encoded picture, without the payload descriptor. Empty in packets of padding alone."""
    key: Key
    payload_type: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """A whole encoded picture."""

    data: bytes
    timestamp: int
    payload_type: int


@dataclass(frozen=True, slots=True)
class Actions:
    """What is to be done now."""

    pictures: list[Picture]
    """To be decoded, in this order."""
    nack: list[int]
    """Sequence numbers to ask for, ascending, as aiortc wants them."""
    pli: bool
    """Whether to ask for a key frame."""


@dataclass(slots=True)
class _Missing:
    since: float
    ask_at: float
    asked_at: float | None = None
    """First time."""


class Gaps:
    """Missing packets, by unwrapped number: which to ask for when, and how long answers take."""

    def __init__(self) -> None:
        self._missing: dict[int, _Missing] = {}  # ascending: a number is entered when a higher one has come
        self._late: dict[int, float] = {}  # given up, and when first asked for: their answers still tell the delay
        self._delays: deque[float] = deque(maxlen=8)
        self._overtaken: deque[float] = deque(maxlen=16)  # by how much the last ones were, 0 for those that were lost

    def __contains__(self, number: int) -> bool:
        return number in self._missing

    @property
    def first(self) -> int | None:
        """The lowest missing number."""
        return next(iter(self._missing), None)

    @property
    def since(self) -> float | None:
        """When that one was noticed."""
        return next((missing.since for missing in self._missing.values()), None)

    def last(self, since: float, end: int) -> int | None:
        """The highest missing number before `end` that was noticed by then."""
        old = (number for number, missing in self._missing.items() if number < end and missing.since <= since)
        return max(old, default=None)

    @property
    def delay_s(self) -> float:
        """From a request to its answer, the shortest of the last ones; 0 before the first."""
        return min(self._delays, default=0.0)

    def opened(self, now: float, first: int, end: int) -> None:
        """The numbers from `first` to before `end` were passed over. Where packets overtake each other, they get the
        time to come by themselves."""
        ask_at = now + max(self._overtaken, default=0.0)
        for number in range(first, end):
            self._missing[number] = _Missing(now, ask_at)

    def came(self, now: float, number: int) -> bool:
        """A packet came; whether it was missing."""
        missing = self._missing.pop(number, None)
        if missing is not None:
            late = now - missing.since
            self._overtaken.append(late if late <= REORDERED_S else 0.0)
        asked_at = missing.asked_at if missing else self._late.pop(number, None)
        if asked_at is not None:
            self._delays.append(now - asked_at)
        return missing is not None

    def give_up(self, end: int) -> int:
        """Forgets what is missing before `end`; how many that were."""
        gone = [number for number in self._missing if number < end]
        for number in gone:
            asked_at = self._missing.pop(number).asked_at
            if asked_at is not None:
                self._late[number] = asked_at
        while len(self._late) > MEMORY:
            del self._late[next(iter(self._late))]
        return len(gone)

    def ask(self, now: float, newest: int) -> list[int]:
        """The numbers to ask for now. A request is repeated when its answer could have been here, then faster."""
        asked = []
        for number, missing in self._missing.items():
            if number > newest - MEMORY and now >= missing.ask_at:
                again = max(ASK_URGENTLY_S, self.delay_s / 2)
                if missing.asked_at is None:
                    missing.asked_at = now
                    again = max(ASK_AGAIN_S, self.delay_s + _MARGIN_S)
                missing.ask_at = now + again
                asked.append(number)
        return asked

    def ask_at(self, newest: int) -> float | None:
        """When `ask` has something next."""
        return min((it.ask_at for number, it in self._missing.items() if number > newest - MEMORY), default=None)


class JitterBuffer:
    """Takes packets in any order; gives whole pictures in theirs, none of which refers to one that is missing.

    Numbers are unwrapped. The first picture has to be a key frame, and so has the first one behind a flush:

                 origin          gap               newest
        given out  [ 7 ][ 8 ][ 9 ]    [ 11 ][ 12 ][ 13 ]
                   `- a picture: waits for 10 -'

    Invariants: every number from `origin` to `newest` is either held or in `gaps`, never both; none is below `origin`.
    """

    def __init__(self) -> None:
        self.losses = Losses()
        self._held: dict[int, Packet] = {}
        self._gaps = Gaps()
        self._origin = 0
        self._newest = -1
        self._ssrc: int | None = None
        self._waits_for_key = True
        self._blocked: float | None = None  # since when a gap holds up all pictures
        self._pli_at = _NEVER  # not before
        self._heard = False  # whether a packet has come since the last PLI: a silent sender is not asked again
        self._stray: int | None = None
        self._dropped: int | None = None

    @property
    def ssrc(self) -> int | None:
        """Of the stream that is being received."""
        return self._ssrc

    @property
    def deadline(self) -> float | None:
        """When to `tick`, unless a packet comes before that. None where there is nothing to be done."""
        pli_at = self._pli_at if self._waits_for_key and self._heard else None
        times = (self._flush_at, self._gaps.ask_at(self._newest), pli_at)
        return min((time for time in times if time is not None), default=None)

    def packet(self, now: float, packet: Packet) -> list[Picture]:
        """Takes a packet that came; the pictures that are whole with it."""
        self._heard = True
        number = self._unwrapped(packet)
        if number is None:
            return []
        if self._gaps.came(now, number):
            self.losses.recovered += 1
        if number < self._origin or number in self._held:
            return []
        self.losses.packets += 1
        if number > self._newest:
            self.losses.missing += number - self._newest - 1
            self._gaps.opened(now, self._newest + 1, number)
            self._newest = number
        self._held[number] = packet
        return self._released()

    def tick(self, now: float) -> Actions:
        """What is to be done at `deadline`, or at any other time: gaps that took too long are given up."""
        pictures = []
        while self._flush_at is not None and now >= self._flush_at:
            self._flush(now - self._patience_s)
            pictures += self._released()
        asked = self._gaps.ask(now, self._newest)
        self.losses.requests += len(asked)
        return Actions(pictures, sorted(number & 0xFFFF for number in asked), self._wants_key(now))

    @property
    def _flush_at(self) -> float | None:
        return None if self._blocked is None else self._blocked + self._patience_s

    @property
    def _patience_s(self) -> float:
        """Three answers: the first, and two to requests that were made when the one before could have been here."""
        return min(max(PATIENCE_S, 3 * (self._gaps.delay_s + _MARGIN_S)), MOST_PATIENCE_S)

    def _unwrapped(self, packet: Packet) -> int | None:
        """None for a packet that belongs nowhere. The second of two in sequence begins a new count (RFC 3550, A.1)."""
        number = self._newest + _signed(packet.number - self._newest)
        far = number - self._newest > CAPACITY or self._origin - number > FAR
        if self._ssrc == packet.ssrc and far and packet.number != self._stray:
            self._stray = (packet.number + 1) & 0xFFFF
            return None
        self._stray = None
        if self._ssrc != packet.ssrc or far or number - self._origin >= CAPACITY:
            self._ssrc = packet.ssrc
            self._drop(self._newest + 1)
            self._gaps = Gaps()
            self._origin, self._newest = packet.number, packet.number - 1
            self._waits_for_key = True
            return packet.number
        return number

    def _released(self) -> list[Picture]:
        """Takes out the pictures that are whole and next."""
        pictures = []
        while not self._waits_for_key or self._found_key():
            end = self._end()
            if end is None:
                break
            packets = [self._held.pop(number) for number in range(self._origin, end)]
            self._origin, self._blocked = end, None
            data = b"".join(packet.data for packet in packets)
            if data:  # padding alone is no picture: the decoder would take nothing for the end of the stream
                pictures.append(Picture(data, packets[0].timestamp, packets[0].payload_type))
        if self._blocked is None or self._gaps.since is None:
            self._blocked = self._gaps.since
        return pictures

    def _end(self) -> int | None:
        """The number behind the next picture; None while that is not whole."""
        first = self._held.get(self._origin)
        number = self._origin
        while first is not None and (packet := self._held.get(number)) is not None:
            if packet.timestamp != first.timestamp:
                return number
            number += 1
            if packet.marker:
                return number
        return None

    def _flush(self, since: float) -> None:
        """Gives up the first gap, and what came before it; with it those noticed until `since`, up to a key frame."""
        first = self._gaps.first
        assert first is not None, "only a gap blocks"
        self.losses.flushes += not self._waits_for_key
        self._waits_for_key = True
        key = min(
            (number for number in self._held if number > first and self._held[number].key is not Key.NO), default=None
        )
        last = self._gaps.last(since, self._newest if key is None else key)
        last = first if last is None else last
        self._drop(min(number for number in self._held if number > last))

    def _found_key(self) -> bool:
        """Goes on from the first key frame that is held; without one, drops the pictures that were known not to be."""
        start = self._origin
        for number in sorted(self._held):
            if not self._continues(number):
                start = number
            key = self._held[number].key
            if key is Key.START or (key is Key.SLICE and start - 1 not in self._gaps):
                self._drop(start)
                self._waits_for_key, self._pli_at = False, _NEVER
                return True
        end = self._newest + 1 if self._gaps.first is None else self._gaps.first
        last = self._held.get(end - 1)
        if last is not None:
            # More of that picture may come, unless it ended.
            self._drop(end if last.marker else self._beginning(end - 1))
        return False

    def _beginning(self, number: int) -> int:
        """The lowest number held of the picture that `number` is a part of, without a gap between."""
        while self._continues(number):
            number -= 1
        return number

    def _continues(self, number: int) -> bool:
        """Whether the packet before it is held as well, and is of the same picture."""
        before = self._held.get(number - 1)
        return before is not None and before.timestamp == self._held[number].timestamp

    def _drop(self, end: int) -> None:
        """Gives up everything before the number `end`."""
        for number in [number for number in self._held if number < end]:
            timestamp = self._held.pop(number).timestamp
            self.losses.pictures_dropped += timestamp != self._dropped
            self._dropped = timestamp
        self.losses.given_up += self._gaps.give_up(end)
        if end > self._origin:
            self._origin, self._blocked = end, None

    def _wants_key(self, now: float) -> bool:
        if not self._waits_for_key or not self._heard or now < self._pli_at:
            return False
        self._pli_at, self._heard = now + PLI_AGAIN_S, False
        self.losses.key_frame_requests += 1
        return True


def _signed(difference: int) -> int:
    """Of two 16-bit numbers, as the shorter way around."""
    return (difference + 0x8000 & 0xFFFF) - 0x8000
