from __future__ import annotations

from dataclasses import replace

import pytest

from streamgen.core import Params
from streamgen.simulation.decision import decisions
from streamgen.simulation.planning import (
    MISSES,
    Question,
    devices_for,
    sessions_per_device,
    sessions_per_device_of_fleet,
)
from streamgen.simulation.workload import DEVICE, SPEC, offered

SLOW = replace(DEVICE, speed=0.3)
QUESTION = Question(Params(), SLOW, SPEC, seconds=12.0)


def test_a_device_takes_as_many_sessions_as_its_time_allows() -> None:
    answer = sessions_per_device(QUESTION)
    assert answer.outcome is not None
    assert answer.outcome.miss_rate <= MISSES
    assert 0.75 < offered([Params()] * answer.sessions, SLOW) <= 1.05


def test_a_device_twice_as_fast_takes_about_twice_as_many() -> None:
    one, two = (sessions_per_device(replace(QUESTION, device=replace(DEVICE, speed=speed))) for speed in (0.3, 0.6))
    assert 1.6 * one.sessions <= two.sessions <= 2.6 * one.sessions


def test_with_lower_quality_it_takes_more() -> None:
    assert sessions_per_device(replace(QUESTION, ladder=True)).sessions > sessions_per_device(QUESTION).sessions


def test_what_cannot_be_promised_to_one_is_promised_to_none() -> None:
    answer = sessions_per_device(replace(QUESTION, params=Params(slo_ms=50.0, steps=4)))
    assert (answer.sessions, answer.outcome) == (0, None)


def test_a_fleet_leaves_room_for_those_who_come() -> None:
    alone, fleet = sessions_per_device(QUESTION), sessions_per_device_of_fleet(QUESTION, 2, 10.0)
    assert 0 < fleet.sessions <= alone.sessions
    assert fleet.outcome is not None
    assert fleet.outcome.sessions > 2 * fleet.sessions  # they come and go


@pytest.mark.parametrize(("sessions", "each", "devices"), [(10_000, 9, 1112), (9, 9, 1), (10, 9, 2)])
def test_devices_are_whole(sessions: int, each: int, devices: int) -> None:
    assert devices_for(sessions, each) == devices


def test_decisions_are_timed() -> None:
    its = decisions(8, 1, rounds=5)
    assert 0 < its.p50_us <= its.p99_us
