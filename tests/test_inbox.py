from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamgen.core import Frame
from streamgen.inbox import Inbox

PIXELS = np.zeros((1, 1, 3), np.uint8)


def frame(number: int) -> Frame:
    return Frame(number, number, Fraction(1, 16), float(number), number + 1.0, PIXELS)


def ids(frames: object) -> list[int]:
    return [f.id for f in frames]  # type: ignore[attr-defined]


def test_the_newest_win() -> None:
    inbox = Inbox(3)
    displaced = [f for number in range(5) for f in inbox.put(frame(number))]
    assert ids(displaced) == [0, 1]
    assert ids(inbox) == [2, 3, 4]


def test_take_and_remove_give_what_they_remove() -> None:
    inbox = Inbox(4)
    for number in range(4):
        inbox.put(frame(number))
    assert ids(inbox.remove([0, 99])) == [0]
    assert ids(inbox.take([1, 2])) == [1, 2]
    assert ids(inbox.clear()) == [3]
    assert len(inbox) == 0


def test_due_stays_with_a_displaced_frame_until_the_next_take() -> None:
    inbox = Inbox(2)
    assert inbox.due is None
    for number in range(6):
        inbox.put(frame(number))
    assert inbox.due == 1.0  # frame 0's
    inbox.remove([4])
    assert inbox.due == 1.0
    inbox.take([5])
    assert inbox.due is None
    inbox.put(replace(frame(7)))
    assert inbox.due == 8.0


@given(st.lists(st.one_of(st.none(), st.sets(st.integers(0, 30))), max_size=40))
def test_every_frame_comes_out_once_and_in_order(operations: list[set[int] | None]) -> None:
    inbox, out, number = Inbox(3), [], 0
    for taken in operations:
        if taken is None:
            out += ids(inbox.put(frame(number)))
            number += 1
        else:
            out += ids(inbox.take(taken))
        assert len(inbox) <= 3
        assert ids(inbox) == sorted(ids(inbox))
    out += ids(inbox.clear())
    assert sorted(out) == list(range(number))
