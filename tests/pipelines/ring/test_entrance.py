from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pipelines.ring.entrance import Entrance, Traveller


@dataclass(frozen=True)
class Asked:
    """A chunk that a test sends."""

    stream: int
    steps: int
    alone: bool = False


def traveller(number: int, asked: Asked) -> Traveller[int]:
    return Traveller(number, asked.stream, number, asked.steps, asked.alone, kind="all alike")


def gone_round(chunks: list[Asked], most: list[int], under_way: int) -> list[list[Traveller[int]]]:
    """The passes in which the chunks take all their steps; at most so many passes are under way at once."""
    entrance: Entrance[int] = Entrance()
    coming = deque(traveller(i, asked) for i, asked in enumerate(chunks))
    passes: list[list[Traveller[int]]] = []
    flying: deque[list[Traveller[int]]] = deque()
    sizes = deque(most)
    for _ in range(20 * len(chunks) + 20):
        if coming:
            entrance.come(coming.popleft())
        while len(flying) < under_way and (rows := entrance.next(sizes[0])):
            sizes.rotate()
            passes.append(rows)
            flying.append(rows)
        if flying:
            for row in flying.popleft():
                if row.sent < row.steps:
                    assert entrance.back(row)
    assert not flying
    assert not entrance.waiting, "somebody waits for ever"
    return passes


CHUNKS = st.lists(st.builds(Asked, st.integers(0, 2), st.integers(1, 4), st.booleans()), min_size=1, max_size=14)


@given(CHUNKS, st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 6))
def test_every_cache_sees_the_chunks_in_their_order_and_they_end_in_it(
    chunks: list[Asked], most: list[int], under_way: int
) -> None:
    at_step: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    ended: defaultdict[int, list[int]] = defaultdict(list)
    steps = [0] * len(chunks)
    for rows in gone_round(chunks, most, under_way):
        slots = [(chunks[row.number].stream, steps[row.number]) for row in rows]
        assert len(set(slots)) == len(slots), "two rows of one pass in one slot"
        for row in rows:
            stream = chunks[row.number].stream
            at_step[stream, steps[row.number]].append(row.number)
            steps[row.number] += 1
            if steps[row.number] == chunks[row.number].steps:
                ended[stream].append(row.number)
    assert steps == [asked.steps for asked in chunks]
    for numbers in (*at_step.values(), *ended.values()):
        assert numbers == sorted(numbers)


@given(CHUNKS, st.integers(1, 4), st.integers(1, 6))
def test_a_chunk_that_goes_alone_meets_no_other_of_its_stream(chunks: list[Asked], most: int, under_way: int) -> None:
    taken = [0] * len(chunks)
    for rows in gone_round(chunks, [most], under_way):
        for row in rows:
            for other, asked in enumerate(chunks):
                begun = 0 < taken[other] < asked.steps
                if other != row.number and asked.stream == chunks[row.number].stream and begun:
                    assert not asked.alone
                    assert not chunks[row.number].alone
        for row in rows:
            taken[row.number] += 1


def test_what_is_nearly_done_goes_first() -> None:
    entrance: Entrance[int] = Entrance()
    first, second, third = (traveller(i, Asked(stream=i, steps=2)) for i in range(3))
    entrance.come(first)
    assert entrance.next(1) == [first]
    entrance.come(second)
    entrance.come(third)
    entrance.back(first)
    assert entrance.begun()
    assert [entrance.next(1) for _ in range(3)] == [[first], [second], [third]]


def test_rows_of_one_kind_share_a_pass() -> None:
    entrance: Entrance[int] = Entrance()
    small = [traveller(i, Asked(i, 1)) for i in (0, 2)]
    large = Traveller(1, 1, 1, 1, alone=False, kind="large")
    for each in (small[0], large, small[1]):
        entrance.come(each)
    assert entrance.able() == 3
    assert entrance.next(4) == small
    assert entrance.next(4) == [large]
    assert entrance.next(4) == []


def test_a_stream_that_is_forgotten_leaves_and_does_not_come_back() -> None:
    entrance: Entrance[int] = Entrance()
    flying, waiting, other = (traveller(i, Asked(stream=i == 2, steps=2)) for i in range(3))
    for each in (flying, waiting, other):
        entrance.come(each)
    assert entrance.next(1) == [flying]
    assert entrance.forget(0) == [waiting]
    assert not entrance.back(flying)
    assert entrance.next(4) == [other]
    assert entrance.waiting == 0


def test_who_is_given_up_holds_up_nobody() -> None:
    entrance: Entrance[int] = Entrance()
    first, second = (traveller(i, Asked(stream=0, steps=3 - i)) for i in range(2))
    entrance.come(first)
    entrance.come(second)
    assert entrance.next(4) == [first]
    assert entrance.next(4) == [second]
    entrance.back(second)
    assert entrance.next(4) == [], "its last step comes after the first chunk's"
    entrance.give_up(first)
    assert entrance.next(4) == [second]


def test_clearing_takes_all_that_wait() -> None:
    entrance: Entrance[int] = Entrance()
    each = traveller(0, Asked(0, 1))
    entrance.come(each)
    assert entrance.clear() == [each]
    assert entrance.waiting == 0
