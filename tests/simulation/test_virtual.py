from __future__ import annotations

import asyncio

import pytest

from streamgen.simulation import virtual
from streamgen.simulation.virtual import LoopClock


def test_a_day_is_over_at_once_and_timers_fire_in_their_order() -> None:
    async def day() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        clock, seen = LoopClock(loop), []

        async def note(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append((name, clock.now()))

        await asyncio.gather(note("noon", 43200.0), note("night", 86400.0), note("dawn", 21600.5))
        return seen

    names, times = zip(*virtual.run(day()), strict=True)
    assert names == ("dawn", "noon", "night")
    assert times == pytest.approx((21600.5, 43200.0, 86400.0))


def test_work_takes_next_to_no_time() -> None:
    async def busy() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert virtual.run(busy()) < 1e-5


def test_a_timer_that_fires_a_little_early_can_be_set_again() -> None:
    async def waits() -> float:
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.3
        while loop.time() < until:  # noqa: ASYNC110 - it is about the timer
            await asyncio.sleep(until - loop.time() - 1e-10)
        return loop.time()

    assert virtual.run(waits()) == pytest.approx(0.3)


def test_timeouts_hold_in_virtual_time() -> None:
    async def patient() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30.0):
                await asyncio.sleep(31.0)
        return asyncio.get_running_loop().time()

    assert virtual.run(patient()) == pytest.approx(30.0)


def test_waiting_for_nothing_is_an_error() -> None:
    with pytest.raises(AssertionError, match="everybody waits"):
        virtual.run(asyncio.Event().wait())
