from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.causal_wan.memory import Memory, Shares
from pipelines.ring.replica import Device, Load, Replica, Trouble, replica_of

GB = 10**9
SHARES = Shares(30, block=Memory(GB // 3, GB // 30, 0), first=Memory(GB, 0, GB), last=Memory(GB, 0, 0))
"""Weights of 12 GB, 1 GB a session, 1 GB while a prompt is read."""
FAST = Device("fast", 100 * GB, row_s=0.03, encode_s=0.01, decode_s=0.02)
LOAD = Load(sessions=1, fps=16.0, steps=2, budget_s=1.0)


def held(devices: Sequence[Device], load: Load = LOAD, shares: Shares = SHARES) -> Replica:
    found = replica_of(devices, shares, load)
    assert isinstance(found, Replica), found
    return found


def refused(devices: Sequence[Device], load: Load = LOAD, shares: Shares = SHARES) -> Trouble:
    found = replica_of(devices, shares, load)
    assert isinstance(found, Trouble), found
    return found


def test_one_device_does_everything_itself() -> None:
    one = held([FAST])
    assert one.split == (30,)
    assert one.chunk_s == pytest.approx(0.01 + 2 * 0.03 + 0.02)
    assert one.rows_per_s == pytest.approx(2 / one.chunk_s)
    assert (one.sessions, one.bound) == (2, "speed")  # 0.25 s between chunks, nine tenths of them, 0.09 each
    assert one.capacity == pytest.approx(2.5)


def test_a_ring_makes_no_chunk_faster_and_begins_the_next_one_sooner() -> None:
    ring = held([replace(FAST, hop_s=0.001)] * 3)
    assert sum(ring.split) == 30
    assert ring.split[1] > ring.split[0] > ring.split[2]  # the ends encode and decode as well
    assert ring.chunk_s == pytest.approx(0.09 + 2 * 3 * 0.001)
    assert ring.rows_per_s == pytest.approx(3 * held([FAST]).rows_per_s, rel=0.1)
    assert ring.sessions == 7


def test_a_slower_device_holds_fewer_blocks() -> None:
    ring = held([FAST, replace(FAST, row_s=0.09)])
    assert ring.split == (24, 6)
    assert ring.stages_s == pytest.approx((0.029, 0.028))


def test_memory_may_be_what_bounds_the_sessions() -> None:
    small = replace(FAST, memory_bytes=int(15.1 * GB / 0.9), row_s=0.001, encode_s=0.001, decode_s=0.001)
    assert (held([small]).sessions, held([small]).bound) == (2, "memory")
    assert held([small]).capacity == 2.0
    two = held([small] * 2)
    assert (two.sessions, two.bound) == (16, "memory")  # weights are there once; a prompt is read by one of the two


def test_blocks_go_where_there_is_memory_for_them() -> None:
    ring = held([replace(FAST, memory_bytes=int(6 * GB / 0.9)), FAST])
    assert ring.split == (9, 21)
    assert SHARES.part(9, first=True, last=False).of(ring.sessions) <= 6 * GB
    assert SHARES.part(10, first=True, last=False).of(ring.sessions) > 6 * GB
    assert sum(held([replace(FAST, memory_bytes=None)] * 2).split) == 30


def test_what_does_not_fit_says_how_far_it_is_from_fitting() -> None:
    small = replace(FAST, memory_bytes=10 * GB)
    assert refused([small]).text == "does not fit: it takes 14.0 GB with a session, of 9.0 that can be used"
    tiny = replace(FAST, memory_bytes=5 * GB)
    text = "does not fit: beside a session they hold 6 + 9 = 15 of the 30 blocks"
    assert refused([tiny, tiny]).text == text
    nothing = replace(FAST, name="toy", memory_bytes=GB)
    assert refused([nothing, FAST]).text == "does not fit: toy cannot hold its end of the model and a session"
    assert refused([nothing, FAST]).excess == float("inf")


def test_a_session_that_is_too_fast_for_a_device_may_be_right_for_a_ring() -> None:
    fast = replace(LOAD, fps=60.0)
    alone = refused([FAST], fast)
    assert alone.text == "too slow: a session would get 40.0 of 60 fps"
    assert alone.excess == pytest.approx(1.5)
    assert held([FAST] * 2, fast).sessions == 1


def test_no_ring_helps_where_a_chunk_itself_takes_too_long() -> None:
    hurried = replace(LOAD, budget_s=0.25)
    slow = replace(FAST, row_s=0.06)
    text = "too slow: a chunk takes 0.15 s, and has 0.06 when its last frame is there"
    for number in (1, 2, 4):
        assert refused([slow] * number, hurried).text == text
    assert refused([slow], replace(LOAD, budget_s=0.1)).excess == float("inf")  # spent while the frames come


def test_the_budget_may_bound_the_sessions() -> None:
    one = held([FAST], replace(LOAD, fps=4.0, budget_s=0.75 + 0.3))
    assert (one.sessions, one.bound) == (3, "budget")
    assert one.capacity == pytest.approx(0.3 / 0.09)


def last_done(stages: Sequence[float], steps: int, sessions: int) -> float:
    """When the last of so many chunks that come at once is done, with rows first come, first served at each stage."""
    order = count()
    waiting = [(0.0, next(order), 0, 0) for _ in range(sessions)]
    free, end = [0.0] * len(stages), 0.0
    while waiting:
        ready, _, stage, step = heapq.heappop(waiting)
        free[stage] = done = max(ready, free[stage]) + stages[stage]
        if stage + 1 < len(stages):
            heapq.heappush(waiting, (done, next(order), stage + 1, step))
        elif step + 1 < steps:
            heapq.heappush(waiting, (done, next(order), 0, step + 1))
        else:
            end = max(end, done)
    return end


@given(st.lists(st.floats(0.005, 0.2), min_size=1, max_size=4), st.integers(1, 4), st.floats(0.2, 2.0))
def test_sessions_are_in_time_when_their_chunks_come_all_at_once(rows: list[float], steps: int, budget: float) -> None:
    devices = [replace(FAST, row_s=row_s) for row_s in rows]
    load = Load(1, 1.0, steps, 3.0 + budget)
    found = replica_of(devices, SHARES, load)
    if isinstance(found, Trouble):
        assert found.text.startswith("too slow: a chunk")
        assert found.excess >= 1
    else:
        assert last_done(found.stages_s, steps, found.sessions) <= load.room_s + 1e-9
        if found.bound == "budget":
            assert last_done(found.stages_s, steps, found.sessions + 1) > load.room_s - 1e-9


@pytest.mark.parametrize(
    "wrong", [{"row_s": 0.0}, {"encode_s": -1.0}, {"decode_s": float("nan")}, {"hop_s": float("inf")}]
)
def test_devices_take_times(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="are no times"):
        replace(FAST, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"sessions": 0}, {"fps": 0.0}, {"steps": 0}, {"budget_s": 0.0}])
def test_loads_ask_for_something(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a load has"):
        replace(LOAD, **wrong)  # type: ignore[arg-type]
