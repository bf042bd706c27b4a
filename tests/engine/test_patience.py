from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from streamgen.engine.patience import Patience
from streamgen.simulation import virtual


def lasted(jobs: int, work: Any) -> float:
    """When a wait with a timeout of 1 s for an answer ended, where `work` goes on beside it (s)."""

    async def wait() -> float:
        loop = asyncio.get_running_loop()
        patience, answered = Patience(jobs), loop.create_future()
        beside = asyncio.create_task(work(patience, answered))
        with pytest.raises(TimeoutError):
            await patience.wait(answered, 1.0)
        beside.cancel()
        return loop.time()

    return virtual.run(wait())


def heard(*times: float) -> Any:
    """Answers to other jobs at these times (s)."""

    async def work(patience: Patience, answered: asyncio.Future[None]) -> None:
        for when in times:
            await asyncio.sleep(when - asyncio.get_running_loop().time())
            patience.heard()

    return work


def test_it_ends_when_nobody_is_answered() -> None:
    assert lasted(9, heard()) == pytest.approx(1.0)


def test_it_lasts_while_others_are_answered() -> None:
    assert lasted(9, heard(0.9, 1.8, 2.5)) == pytest.approx(3.5)
    assert lasted(9, heard(0.9, 2.5)) == pytest.approx(1.9)


def test_it_does_not_last_for_ever() -> None:
    assert lasted(3, heard(*(0.5 * count for count in range(1, 20)))) == pytest.approx(3.0)


def test_it_ends_with_the_answer() -> None:
    async def answered_at(when: float) -> float:
        loop = asyncio.get_running_loop()
        patience, answered = Patience(2), loop.create_future()
        loop.call_later(when, answered.set_result, None)
        await patience.wait(answered, 1.0)
        return loop.time()

    waits: list[Coroutine[Any, Any, float]] = [answered_at(0.7), answered_at(0.0)]
    assert [virtual.run(wait) for wait in waits] == pytest.approx([0.7, 0.0], abs=1e-6)


def test_what_was_heard_before_a_job_was_sent_is_no_reason_to_end_it_sooner() -> None:
    async def waited() -> float:
        loop = asyncio.get_running_loop()
        patience = Patience(2)
        patience.heard()
        await asyncio.sleep(5.0)
        with pytest.raises(TimeoutError):
            await patience.wait(loop.create_future(), 1.0)
        return loop.time()

    assert virtual.run(waited()) == pytest.approx(6.0)
