from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgen.engine import StageTimes
from streamgen.simulation import virtual
from streamgen.simulation.ring import Ring, shares


def times(encode: float, denoise: float, decode: float, calls: int = 2) -> StageTimes:
    return StageTimes(0.0, encode, denoise, decode, 1, calls, calls, 1)


EVEN = times(1.0, 10.0, 1.0)
"""Three units of time on each of four stages."""


def through(stages: int, *batches: tuple[str, StageTimes]) -> tuple[list[float], float]:
    """When each batch (sessions, work) came out, where all come at once, and what the busiest stage did."""

    async def all_of_them() -> tuple[list[float], float]:
        ring, loop = Ring(stages), asyncio.get_running_loop()

        async def one(sessions: str, work: StageTimes) -> float:
            await ring.go_through(sessions, work)
            return loop.time()

        return list(await asyncio.gather(*(one(*batch) for batch in batches))), ring.busy_s

    return virtual.run(all_of_them())


def test_a_batch_alone_takes_all_of_its_work_on_any_number_of_stages() -> None:
    for stages in (1, 2, 4):
        (end,), busy = through(stages, ("a", EVEN))
        assert end == pytest.approx(12.0)
        assert busy == pytest.approx(12.0 / stages)


def test_as_many_batches_as_stages_flow_beside_each_other() -> None:
    """One after the other they would take 48; all at once they have to wait for the first stage, and little else."""
    ends, busy = through(4, *((name, EVEN) for name in "abcd"))
    assert max(ends) < 24.0
    assert busy == pytest.approx(12.0)


def test_one_stage_does_one_thing_at_a_time() -> None:
    ends, busy = through(1, ("a", EVEN), ("b", EVEN))
    assert (max(ends), busy) == pytest.approx((24.0, 24.0))


def test_a_short_batch_of_others_overtakes_a_long_one_and_one_of_the_same_session_does_not() -> None:
    long, short = times(1.0, 20.0, 1.0, calls=4), times(1.0, 5.0, 1.0, calls=1)
    (slow, quick), _ = through(2, ("a", long), ("b", short))
    assert quick < slow
    (slow, behind), _ = through(2, ("ab", long), ("b", short))
    assert behind > slow


def test_a_session_that_was_forgotten_waits_for_nothing_of_before() -> None:
    async def run() -> list[str]:
        ring, order = Ring(2), list[str]()

        async def one(name: str, work: StageTimes) -> None:
            await ring.go_through("a", work)
            order.append(name)

        first = asyncio.create_task(one("long", times(1.0, 20.0, 1.0, calls=4)))
        await asyncio.sleep(0.1)
        ring.forget("a")
        await asyncio.gather(first, one("short", times(1.0, 5.0, 1.0, calls=1)))
        return order

    assert virtual.run(run()) == ["short", "long"]


@pytest.mark.parametrize(
    ("stages", "own", "expected"),
    [
        (1, (1, 2, 3), [1.0]),
        (2, (1, 8, 3), [5 / 8, 3 / 8]),
        (4, (1, 10, 1), [0.2, 0.3, 0.3, 0.2]),
        (4, (5, 8, 1), [0, 3 / 8, 3 / 8, 2 / 8]),
        (3, (9, 1, 9), [0, 1, 0]),
    ],
)
def test_stages_get_what_makes_them_take_alike(
    stages: int, own: tuple[float, float, float], expected: Sequence[float]
) -> None:
    assert shares(stages, *own) == pytest.approx(expected)


@given(st.integers(1, 9), st.floats(0.0, 5.0), st.floats(0.1, 9.0), st.floats(0.0, 5.0))
def test_the_denoiser_is_shared_out_whole(stages: int, encode: float, denoise: float, decode: float) -> None:
    parts = shares(stages, encode, denoise, decode)
    assert len(parts) == stages
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(1.0)
