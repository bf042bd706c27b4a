import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgen.bench.link import Quality
from streamgen.jitter import (
    CAPACITY,
    FAR,
    MEMORY,
    PATIENCE_S,
    PLI_AGAIN_S,
    Actions,
    JitterBuffer,
    Packet,
    Picture,
)
from streamgen.keyframe import Key
from tests.support.lossy_stream import FPS, LossyStream, Released

START, SLICE, NO = Key.START, Key.SLICE, Key.NO
NOTHING = Actions([], [], False)


def packets(*pictures: str, start: int = 65533, ssrc: int = 1, first: int = 2**32 - 3000) -> list[Packet]:
    """A packet for each letter; a picture that begins with a capital letter is a key frame. Counts soon wrap."""
    made: list[Packet] = []
    for number, parts in enumerate(pictures):
        for index, part in enumerate(parts):
            packet = Packet(
                ssrc=ssrc,
                number=(start + len(made)) % 65536,
                timestamp=(first + number * 3000) % 2**32,
                marker=index == len(parts) - 1,
                data=part.strip().encode(),
                key=START if part.isupper() and index == 0 else NO,
            )
            made.append(packet)
    return made


def given_out(pictures: list[Picture]) -> list[str]:
    return [picture.data.decode() for picture in pictures]


class Line:
    """A buffer that is fed at times of the test's choice, and ticked when it wants to be."""

    def __init__(self) -> None:
        self.buffer = JitterBuffer()
        self.pictures: list[str] = []
        self.asked: list[tuple[float, list[int]]] = []
        self.plis: list[float] = []
        self._now = 0.0

    def give(self, now: float, *given: Packet) -> None:
        for packet in given:
            self.until(now)
            self.pictures += given_out(self.buffer.packet(now, packet))
        self.until(now)

    def until(self, now: float) -> None:
        while (deadline := self.buffer.deadline) is not None and deadline <= now:
            self._now = max(self._now, deadline)
            actions = self.buffer.tick(self._now)
            self.pictures += given_out(actions.pictures)
            if actions.nack:
                self.asked.append((round(self._now, 4), actions.nack))
            if actions.pli:
                self.plis.append(round(self._now, 4))
        self._now = now


def test_a_picture_comes_with_its_last_packet():
    buffer = JitterBuffer()
    first, second, third = packets("Abc")
    assert buffer.packet(0, first) == buffer.packet(0, second) == []
    (picture,) = buffer.packet(0, third)
    assert picture == Picture(b"Abc", 2**32 - 3000, payload_type=0)
    assert buffer.deadline is None
    assert buffer.tick(100) == NOTHING


def test_without_a_marker_it_comes_when_the_next_begins():
    a, b, c = packets("A", "b", "c")
    unmarked = Packet(a.ssrc, a.number, a.timestamp, False, a.data, a.key)
    line = Line()
    line.give(0, unmarked)
    assert line.pictures == []
    line.give(0, b, c)
    assert line.pictures == ["A", "b", "c"]


def test_padding_alone_is_no_picture_and_holds_up_nothing():
    line = Line()
    line.give(0, *packets("A", "  ", "b"))
    assert line.pictures == ["A", "b"]
    assert line.buffer.losses.pictures_dropped == 0


def test_pictures_that_waited_come_all_at_once():
    a, b, *rest = packets("A", "b", "c", "d", "e")
    line = Line()
    line.give(0, a, *rest)
    assert line.pictures == ["A"]
    line.give(0.05, b)
    assert line.pictures == ["A", "b", "c", "d", "e"]


def test_a_missing_packet_is_asked_for_until_it_comes():
    a, b, c = packets("A", "b", "c")
    line = Line()
    line.give(0, a)
    line.give(1, c)
    line.until(1.06)
    assert line.asked == [(1, [b.number]), (1.03, [b.number]), (1.05, [b.number])]
    line.give(1.065, b)
    assert line.pictures == ["A", "b", "c"]
    losses = line.buffer.losses
    assert (losses.packets, losses.missing, losses.recovered, losses.given_up) == (3, 1, 1, 0)
    assert (losses.requests, losses.flushes, losses.key_frame_requests) == (3, 0, 0)
    assert line.buffer.deadline is None


def test_the_answers_delay_is_learned_and_kept_to():
    a, *rest = packets("A", *"bcdefgh")
    line = Line()
    line.give(0, a)
    line.give(1, rest[1])
    line.give(1.08, rest[0])
    line.give(2, rest[3])
    line.until(2.2)
    times = [time for time, _ in line.asked if time >= 2]
    assert times == pytest.approx([2, 2.083, 2.123, 2.163])
    line.give(2.24, rest[2])
    assert line.pictures == ["A", "b", "c", "d", "e"]
    assert line.buffer.losses.flushes == 0


def test_requests_are_ascending_numbers_also_where_the_count_wraps():
    given_ = packets("A", *"bcdefg", start=65533)
    line = Line()
    line.give(0, given_[0], given_[6])
    assert line.asked == [(0, [0, 1, 2, 65534, 65535])]


def test_only_what_a_sender_remembers_is_asked_for():
    given_ = packets("A", "x" * 300)
    line = Line()
    line.give(0, given_[0], given_[300])
    (asked,) = (numbers for _, numbers in line.asked)
    assert len(asked) == MEMORY - 1
    assert given_[299].number in asked
    assert given_[1].number not in asked


def test_a_gap_that_stays_is_given_up_and_a_key_frame_asked_for():
    a, b, c, d, *key = packets("A", "bc", "d", "Efg", "h")
    line = Line()
    line.give(0, a)
    line.give(1, c, d)
    line.until(1 + PATIENCE_S - 0.001)
    assert line.plis == []
    line.until(1 + PATIENCE_S)
    assert line.plis == [1 + PATIENCE_S]
    line.give(1.14, b)  # too late
    line.give(1.15, *key)
    assert line.pictures == ["A", "Efg", "h"]
    losses = line.buffer.losses
    assert (losses.flushes, losses.given_up, losses.recovered, losses.pictures_dropped) == (1, 1, 0, 2)
    assert line.buffer.deadline is None


def test_a_key_frame_behind_the_gap_needs_no_request():
    a, _, *key = packets("A", "b", "C", "d")
    line = Line()
    line.give(0, a, *key)
    line.until(1)
    assert line.pictures == ["A", "C", "d"]
    assert line.plis == []


def test_a_key_frame_is_asked_for_again_but_not_of_a_silent_sender():
    a, _, *rest = packets("A", *"bcdefghijklmnopqrst")
    line = Line()
    line.give(0, a, rest[0])
    for number in range(1, 11):
        line.give(number * 0.1, rest[number])
    assert line.plis == pytest.approx([PATIENCE_S + n * PLI_AGAIN_S for n in range(4)])
    line.until(10)
    assert len(line.plis) == 5  # one for what came after the fourth
    assert line.buffer.deadline is None
    line.give(20, rest[11])
    assert line.plis[-1] == 20
    assert line.pictures == ["A"]


def test_a_key_frame_whose_beginning_is_missing_is_waited_for():
    a, _, c, key, *rest = packets("A", "b", "c", "Def", "g")
    line = Line()
    line.give(0, a, c)
    line.until(0.2)
    line.give(0.3, *rest)
    assert line.pictures == ["A"]
    assert line.asked[-1] == (0.3, [key.number])
    line.give(0.34, key)
    assert line.pictures == ["A", "Def", "g"]


def test_a_key_frame_that_is_torn_itself_is_given_up_for_another():
    a, _, c, *rest = packets("A", "b", "c", "Def", "g", "H")
    line = Line()
    line.give(0, a, c)
    line.until(PATIENCE_S)
    line.give(0.2, rest[0], rest[2], rest[3])
    line.until(0.4)
    assert line.plis == [PATIENCE_S, 0.2 + PATIENCE_S]
    line.give(0.5, rest[4])
    assert line.pictures == ["A", "H"]
    assert line.buffer.losses.flushes == 2


def test_a_stream_that_does_not_begin_with_a_key_frame():
    given_ = packets("ab", "c", "De", "f")
    line = Line()
    line.give(0, *given_[:3])
    assert line.plis == [0]
    line.give(0.1, *given_[3:])
    assert line.pictures == ["De", "f"]


def with_key(packet: Packet, key: Key) -> Packet:
    return Packet(packet.ssrc, packet.number, packet.timestamp, packet.marker, packet.data, key)


def test_what_precedes_a_slice_in_its_picture_belongs_to_it():
    """A parameter set or delimiter in a packet of its own."""
    a, b, c, d = packets("a", "bcd")
    line = Line()
    line.give(0, a, b, with_key(c, SLICE), d)
    assert line.pictures == ["bcd"]


def test_a_slice_is_not_taken_before_what_precedes_it_is_known():
    a, _, c, sets, slice_, e = packets("A", "b", "c", "dEf")
    line = Line()
    line.give(0, a, c)
    line.until(PATIENCE_S)
    line.give(0.2, with_key(slice_, SLICE), e)
    assert line.pictures == ["A"]
    line.give(0.24, with_key(sets, START))
    assert line.pictures == ["A", "dEf"]


def test_a_slice_is_taken_where_what_precedes_it_never_comes():
    a, _, c, _, slice_, e = packets("A", "b", "c", "dEf")
    line = Line()
    line.give(0, a, c)
    line.until(PATIENCE_S)
    line.give(0.2, with_key(slice_, SLICE), e)
    line.until(0.2 + PATIENCE_S)
    assert line.pictures == ["A", "Ef"]


def test_another_stream_and_another_count_begin_with_a_key_frame():
    line = Line()
    line.give(0, *packets("A", "b"))
    line.give(0, *packets("c", "D", "e", ssrc=2, start=7))
    assert line.pictures == ["A", "b", "D", "e"]
    assert line.buffer.ssrc == 2
    line.give(1, *packets("f", "g", "H", ssrc=2, start=30000))
    assert line.pictures == ["A", "b", "D", "e", "H"]


def test_a_stray_packet_is_not_taken_for_a_new_count():
    given_ = packets("A", *"bcdef", start=5000)
    far = [packets("X", start=number)[0] for number in (5000 - FAR - 9, 30000, 50000)]
    line = Line()
    line.give(0, *itertools.chain(*itertools.zip_longest(given_, far, fillvalue=given_[0])))
    assert line.pictures == ["A", "b", "c", "d", "e", "f"]
    assert line.plis == []


def test_a_picture_without_an_end_is_given_up():
    line = Line()
    line.give(0, *packets("A" + "x" * (2 * CAPACITY))[:-1])
    assert len(line.buffer._held) <= CAPACITY
    assert line.pictures == []
    assert line.plis == [0]


@pytest.mark.parametrize("seed", range(10))
def test_packets_that_overtake_each_other_cost_nothing(seed: int):
    random_ = random.Random(seed)
    pictures = ["A", *("b" * random_.randint(1, 4) for _ in range(60))]
    given_ = packets(*pictures)
    order = sorted(range(1, len(given_)), key=lambda index: index + random_.uniform(0, 5))
    line = Line()
    line.give(0, given_[0])
    for place, index in enumerate(order):
        line.give(place * 0.005, given_[index])
    assert line.pictures == pictures
    assert line.buffer.losses.flushes == 0
    assert line.buffer.losses.given_up == 0


def test_where_packets_overtake_each_other_they_get_the_time_for_it():
    given_ = packets("A", *"bcdefghijkl")
    line = Line()
    line.give(0, given_[0])
    line.give(1, given_[2])
    line.give(1.004, given_[1])
    assert line.asked == [(1, [given_[1].number])]
    line.give(2, given_[4])
    line.give(2.003, given_[3])
    assert len(line.asked) == 1
    line.give(3, given_[6])
    line.until(3.02)
    assert line.asked[1:] == [(3.004, [given_[5].number])]


@settings(deadline=None)
@given(st.data())
def test_whatever_comes_what_goes_out_is_whole_and_refers_to_nothing_lost(data: st.DataObject):
    lengths = data.draw(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=15))
    letters = "abcdefghijklmno"
    pictures = [
        (letters[i].upper() + "+" * (length - 1)) if key else letters[i] + "-" * (length - 1)
        for i, (length, key) in enumerate(lengths)
    ]
    given_ = packets(*pictures)
    places = st.lists(st.integers(0, len(given_) - 1), min_size=1, max_size=2 * len(given_))
    line, now = Line(), 0.0
    for index in data.draw(places):
        now += data.draw(st.sampled_from([0.0, 0.001, 0.03, 0.2]))
        line.give(now, given_[index])
        buffer = line.buffer
        between = range(buffer._origin, buffer._newest + 1)
        assert all((number in buffer._held) != (number in buffer._gaps) for number in between)
        assert all(number in between for number in [*buffer._held, *buffer._gaps._missing])
        losses = buffer.losses
        assert losses.missing == losses.recovered + losses.given_up + len(buffer._gaps._missing)
    line.until(now + 10)
    assert line.buffer.deadline is None
    out = [pictures.index(picture) for picture in line.pictures]
    assert out == sorted(set(out))
    for before, after in itertools.pairwise([-2, *out]):
        assert after == before + 1 or pictures[after][0].isupper()


def refers_to_what_was_given_out(released: list[Released]) -> bool:
    return all(after.key or after.number == before.number + 1 for before, after in itertools.pairwise(released))


@pytest.mark.parametrize("loss", [0.02, 0.05])
@pytest.mark.parametrize("seed", range(8))
def test_over_a_lossy_link_pictures_never_stop_for_long(loss: float, seed: int):
    stream = LossyStream(60, Quality(loss, delay_s=0.02), seed)
    losses = stream.buffer.losses
    assert losses.missing > 50
    assert losses.recovered >= 0.98 * losses.missing
    assert max(stream.freezes()) < 0.3
    latencies = stream.latencies()
    assert sorted(latencies)[len(latencies) // 2] == pytest.approx(0.02)
    assert max(stream.times_late(above=0.021)) < 1.0
    assert stream.released[-1].number >= 60 * FPS - 3
    assert refers_to_what_was_given_out(stream.released)
    assert stream.repetitions.sent < 1.5 * losses.missing


@pytest.mark.parametrize("seed", range(4))
def test_where_packets_also_overtake_each_other(seed: int):
    stream = LossyStream(60, Quality(0.05, delay_s=0.02, jitter_s=0.005), seed)
    assert max(stream.freezes()) < 0.3
    assert refers_to_what_was_given_out(stream.released)
    assert stream.repetitions.sent < stream.buffer.losses.missing / 3  # most were overtaken, and not asked for


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length_s", [0.05, 0.3, 1.0, 3.0])
def test_after_an_outage_latency_is_soon_what_it_was(length_s: float, seed: int):
    begin = 3 + seed * 0.011
    stream = LossyStream(8, Quality(delay_s=0.02), seed, ((begin, begin + length_s),))
    assert max(stream.freezes()) < length_s + 0.3
    assert max(stream.latencies(begin + length_s + 1)) == pytest.approx(0.02)
    assert stream.released[-1].number == 8 * FPS - 1
    assert refers_to_what_was_given_out(stream.released)


def test_the_simulation_loses_what_it_should():
    """Else the tests above would say nothing: none of it is recovered where nobody asks."""
    stream = LossyStream(20, Quality(0.05, delay_s=0.02), seed=3, deaf=True)
    assert stream.buffer.losses.flushes == 1
    assert len(stream.released) < 20 * FPS / 4
