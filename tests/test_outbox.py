from __future__ import annotations

import asyncio
from fractions import Fraction

import numpy as np

from streamgen.core import Frame
from streamgen.outbox import Outbox

PIXELS = np.zeros((1, 1, 3), np.uint8)


def frames(*numbers: int) -> list[Frame]:
    return [Frame(number, number, Fraction(1, 16), 0.0, 1.0, PIXELS) for number in numbers]


async def test_first_waits_and_leaves_the_result_in_its_place() -> None:
    outbox = Outbox(4)
    waiting = asyncio.create_task(outbox.first())
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.put(frames(0, 1), now=5.0)
    finished = await waiting
    assert finished is not None
    assert (finished.frame.id, finished.at, len(outbox)) == (0, 5.0, 2)
    assert outbox.remove(finished)
    assert not outbox.remove(finished)
    assert len(outbox) == 1


async def test_it_never_grows_beyond_its_capacity() -> None:
    outbox = Outbox(3)
    assert outbox.put(frames(0, 1), 0.0) == []
    assert [frame.id for frame in outbox.put(frames(2, 3, 4), 0.0)] == [0, 1]
    assert [frame.id for frame in outbox.clear()] == [2, 3, 4]


async def test_closing_ends_the_wait_and_gives_what_was_left() -> None:
    outbox = Outbox(3)
    waiting = asyncio.create_task(outbox.first())
    await asyncio.sleep(0)
    assert outbox.close() == []
    assert await waiting is None
    outbox = Outbox(3)
    outbox.put(frames(0), 0.0)
    assert [frame.id for frame in outbox.close()] == [0]
    assert await outbox.first() is None
