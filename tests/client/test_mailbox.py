import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgen.client.mailbox import Mailbox


async def test_the_newest_win_and_the_rest_is_counted():
    mailbox: Mailbox[int] = Mailbox(2)
    for number in range(5):
        mailbox.put(number)
    assert (await mailbox.take(), await mailbox.take()) == (3, 4)
    assert mailbox.skipped == 3


async def test_take_waits_for_the_next():
    mailbox: Mailbox[int] = Mailbox(1)
    taking = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    assert not taking.done()
    mailbox.put(7)
    assert await taking == 7


async def test_a_closed_one_gives_what_is_left_and_then_none():
    mailbox: Mailbox[int] = Mailbox(2)
    mailbox.put(1)
    mailbox.close()
    mailbox.put(2)
    assert await mailbox.take() == 1
    assert await mailbox.take() is None


async def test_closing_wakes_a_waiting_reader():
    mailbox: Mailbox[int] = Mailbox(1)
    taking = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.close()
    assert await taking is None


def test_no_room_at_all_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Mailbox(0)


@given(capacity=st.integers(1, 5), puts=st.lists(st.booleans(), max_size=40))
def test_what_was_put_is_taken_skipped_or_there(capacity: int, puts: list[bool]):
    async def play() -> None:
        mailbox: Mailbox[int] = Mailbox(capacity)
        put = taken = 0
        for is_put in puts:
            if is_put:
                mailbox.put(put)
                put += 1
            elif len(mailbox):
                await mailbox.take()
                taken += 1
            assert 0 <= len(mailbox) <= capacity
            assert put == taken + mailbox.skipped + len(mailbox)

    asyncio.run(play())
