from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgen.scheduler.capacity import CROWDING_STEP, IDLE, MOST_CROWDING, Capacity
from streamgen.scheduler.cost import Rates

NOW = 100.0
RATES = Rates(0.0, 0.1, 0.0, 0.2, 0.0, 0.1, 0.0)
"""0.1 s before and after the denoiser, and 0.2 s for each of its rows."""

WORK = 0.6
"""Of a chunk of two steps, all in all (s)."""

FLOW = Capacity(stages=4, flight=4, places=8, crowding=0.5)


def test_one_device_does_one_batch_after_the_other() -> None:
    first = Capacity().ends(NOW, RATES, 1, 2, 2)
    assert first == pytest.approx((NOW + WORK,) * 3)
    given_one = Capacity().given(first)
    assert given_one.opens == given_one.follows(first) == pytest.approx(NOW + WORK)
    assert given_one.ends(NOW, RATES, 1, 2, 2)[2] == pytest.approx(NOW + 2 * WORK)
    assert Capacity().bottleneck((0.1, 0.4, 0.1)) == pytest.approx(WORK)


def test_where_stages_overlap_the_next_batch_begins_behind_the_encoder() -> None:
    device = Capacity(overlap=True)
    first = device.ends(NOW, RATES, 1, 2, 2)
    assert first == pytest.approx((NOW + 0.1, NOW + 0.5, NOW + 0.6))
    assert device.given(first).opens == pytest.approx(NOW + 0.1)
    assert device.follows(first) == pytest.approx(NOW + 0.6)
    assert device.bottleneck((0.1, 0.4, 0.1)) == pytest.approx(0.4)


def test_a_batch_in_an_empty_flow_takes_what_its_work_takes() -> None:
    assert FLOW.ends(NOW, RATES, 1, 2, 2) == pytest.approx((NOW, NOW, NOW + WORK))


def test_batches_in_a_flow_begin_at_once_and_hold_each_other_up() -> None:
    """Beside four others, which are as many as there are stages, by half of its work."""
    flow = FLOW
    for others in range(5):
        ends = flow.ends(NOW, RATES, 1, 2, 2)
        assert ends[0] == NOW
        assert ends[2] == pytest.approx(NOW + WORK * (1 + 0.5 * others / 4))
        assert flow.follows(ends) == NOW
        flow = flow.given(ends)
    assert flow.opens == 0.0
    assert flow.free == IDLE


def test_a_full_flow_opens_when_the_first_batch_leaves_it() -> None:
    flow = replace(FLOW, under_way=(NOW + 3, NOW + 1, NOW + 2, *[NOW + 5] * 4))
    last = flow.ends(NOW, RATES, 1, 2, 2)
    assert last[0] == NOW
    assert flow.follows(last) == flow.given(last).opens == pytest.approx(NOW + 1)
    flow = flow.given(last)
    late = flow.ends(NOW, RATES, 1, 2, 2)
    assert late[0] == pytest.approx(NOW + 1)
    assert late[2] == pytest.approx(NOW + 1 + WORK * (1 + 0.5 * 7 / 4))
    assert flow.ends(NOW + 4, RATES, 1, 2, 2)[0] == NOW + 4  # who is late leaves now, at best


def test_a_batch_costs_a_flow_a_share_of_its_work() -> None:
    stages = (0.1, 0.4, 0.1)
    assert replace(FLOW, crowding=0.0).bottleneck(stages) == pytest.approx(WORK / 4)
    assert replace(FLOW, crowding=1.0).bottleneck(stages) == pytest.approx(WORK * (1 + 7 / 4) / 8)
    assert replace(FLOW, crowding=0.0).bottleneck((0.1, 0.1, 0.4)) == pytest.approx(0.4)  # which cannot be spread
    assert Capacity(flight=2, places=2, crowding=0.0).bottleneck(stages) == pytest.approx(WORK)  # one device


@given(st.floats(0.0, MOST_CROWDING), st.integers(1, 8), st.integers(1, 16))
def test_a_flow_is_never_taken_for_more_than_its_devices(crowding: float, stages: int, places: int) -> None:
    flow = Capacity(stages=stages, flight=2, places=places, crowding=crowding)
    cost = flow.bottleneck((0.0, 1.0, 0.0))
    assert 1 / stages <= cost <= 1 + crowding
    assert replace(flow, crowding=min(MOST_CROWDING, crowding + 0.1)).bottleneck((0.0, 1.0, 0.0)) >= cost


@pytest.mark.parametrize("true", [0.0, 0.3, 1.2])
def test_how_much_batches_hold_each_other_up_is_learnt_from_those_that_had_company(true: float) -> None:
    flow = FLOW
    for others in [0, 1, 5, 7, 4, 2] * 60:
        flow = flow.crowded(WORK * (1 + true * others / 4), WORK, others)
    assert flow.crowding == pytest.approx(true, abs=0.01)
    assert FLOW.crowded(9.0, WORK, 0).crowding == FLOW.crowding
    assert 0.0 <= FLOW.crowded(1e6, WORK, 7).crowding <= MOST_CROWDING
    assert FLOW.crowded(0.0, WORK, 7).crowding >= 0.0


def test_a_hiccup_says_little_of_how_much_batches_hold_each_other_up() -> None:
    assert FLOW.crowded(60.0, WORK, 7).crowding < FLOW.crowding + CROWDING_STEP
    assert FLOW.crowded(1.0, 0.0, 7).crowding < FLOW.crowding + CROWDING_STEP
