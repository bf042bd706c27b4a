from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import CostModel
from streamgen.scheduler.governor import HOLD_S, MOST_PRESSURE, SETTLES_S, Governor
from tests.scheduler.test_demand import DEVICE, demand, model

MODEL = model()  # a session of two steps takes 0.4 of the device, of one step 0.2


def after(
    governor: Governor, *names: str, now: float, cost: CostModel = MODEL, frames: int = 0, missed: int = 0
) -> Governor:
    return governor.governed(now, [demand(name) for name in names], cost, DEVICE, frames=frames, missed=missed)


def test_who_comes_alone_gets_what_was_asked_for() -> None:
    assert after(Governor(), "a", now=0.0).levels == {"a": 0}


def test_under_load_rungs_go_down_at_once() -> None:
    governor = after(Governor(), "a", "b", now=0.0)
    assert after(governor, "a", "b", "c", now=0.1).levels == {"a": 0, "b": 1, "c": 1}


def test_rungs_are_climbed_again_only_after_a_while() -> None:
    governor = after(Governor(), "a", "b", now=0.0)
    governor = after(governor, "a", "b", "c", now=10.0)
    governor = after(governor, "a", "b", now=10.0 + HOLD_S / 2)
    assert governor.levels == {"a": 0, "b": 1}
    assert after(governor, "a", "b", now=10.0 + HOLD_S).levels == {"a": 0, "b": 0}


def test_a_climb_that_was_a_mistake_is_tried_again_later_and_later() -> None:
    """Costs that look lower whenever rungs are low, as they do where something else is wrong."""
    governor, now, climbs = after(Governor(), "a", now=0.0, cost=model(row=0.2)), 0.0, list[float]()
    while now < 200.0:
        now += 0.5
        before = governor.levels["a"]
        governor = after(governor, "a", now=now, cost=model(row=0.05 if before else 0.2))
        if governor.levels["a"] < before:
            climbs.append(now)
    waits = [b - a for a, b in pairwise(climbs)]
    assert waits == sorted(waits)
    assert waits[-1] > 10 * HOLD_S
    calm = governor
    for turn in range(200):
        calm = after(calm, "a", now=now + turn)
    assert calm.hold == HOLD_S


NEARLY = model(row=0.054)  # two sessions of two steps take 0.864 of the device


def test_what_would_nearly_be_too_much_is_not_climbed_to() -> None:
    assert after(Governor(), "a", "b", now=0.0, cost=NEARLY).levels == {"a": 0, "b": 0}
    governor = after(Governor(), "a", "b", "c", now=0.0, cost=NEARLY)
    governor = after(governor, "a", "b", now=10.0, cost=NEARLY)
    later = after(governor, "a", "b", now=20.0, cost=NEARLY)
    assert later.levels["b"] == 1
    assert after(later, "a", now=30.0).levels == {"a": 0}
    alone = after(after(later, "b", now=30.0), "b", now=40.0)
    assert alone.levels == {"b": 0}


def test_misses_that_the_model_does_not_explain_lower_quality_too() -> None:
    governor = after(Governor(), "a", "b", now=0.0)
    governor = after(governor, "a", "b", now=0.5, frames=100, missed=1)
    assert governor.levels == {"a": 0, "b": 0}
    governor = after(governor, "a", "b", now=1.0, frames=100, missed=10)
    assert governor.pressure > 1
    assert governor.levels == {"a": 0, "b": 1}


def test_pressure_waits_until_its_effect_shows_and_has_an_end() -> None:
    governor = after(Governor(), "a", now=0.0)
    once = after(governor, "a", now=1.0, frames=100, missed=50)
    assert after(once, "a", now=1.5, frames=100, missed=50).pressure == once.pressure
    for turn in range(100):
        once = after(once, "a", now=10.0 + turn * SETTLES_S, frames=100, missed=50)
    assert once.pressure == MOST_PRESSURE
    for turn in range(300):
        once = after(once, "a", now=300.0 + turn, frames=100, missed=0)
    assert once.pressure == 1.0


def test_few_frames_are_counted_on_until_they_tell() -> None:
    governor = after(Governor(), "a", now=0.0)
    for turn in range(8):  # eight frames each
        governor = after(governor, "a", now=0.5 * turn, frames=8, missed=8)
    assert governor.pressure > 1


def test_a_device_without_sessions_is_trusted_anew() -> None:
    governor = after(Governor(), "a", now=0.0)
    governor = after(governor, "a", now=1.0, frames=100, missed=50)
    governor = after(after(governor, now=2.0), now=2.5)
    assert governor.pressure == 1.0


def test_who_comes_and_goes_does_not_keep_the_others_down() -> None:
    governor = after(Governor(), "a", "b", "c", now=0.0)
    assert governor.levels["b"] == 1
    for turn in range(20):
        guest = replace(demand(f"guest{turn}"), batch=True)
        crowd = [demand("a"), guest] if turn % 2 else [demand("a")]
        governor = governor.governed(1.0 + turn, crowd, MODEL, DEVICE)
    assert governor.levels["a"] == 0


def test_one_to_whom_nothing_can_be_promised_takes_nothing_from_the_others() -> None:
    impossible = demand("fast", budget=0.04)
    governor = Governor().governed(0.0, [demand("a"), impossible], MODEL, DEVICE)
    assert governor.hopeless == {"fast"}
    assert governor.levels == {"a": 0, "fast": 1}
    assert governor.admits(demand("b"), [demand("a"), impossible], MODEL, DEVICE)


def test_batch_jobs_run_as_they_are() -> None:
    job = replace(demand("job"), batch=True)
    governor = Governor().governed(0.0, [job, *(demand(name) for name in "abc")], MODEL, DEVICE)
    assert governor.levels == {"job": 0, "a": 0, "b": 1, "c": 1}


def test_who_fits_at_some_rung_is_admitted() -> None:
    members = [demand(name) for name in "abc"]
    assert Governor().admits(demand("d"), members, MODEL, DEVICE)
    assert not Governor().admits(demand("e"), [*members, demand("d")], MODEL, DEVICE)
    assert not Governor().admits(demand("d", steps=(2,)), members, MODEL, DEVICE)


def test_who_has_no_place_is_not_admitted() -> None:
    members = [demand("a"), demand("b")]
    assert not Governor().admits(demand("c"), members, MODEL, Capacity(sessions=2))
    assert Governor().admits(demand("c"), members, MODEL, Capacity(sessions=3))


def test_whose_state_does_not_fit_into_memory_is_not_admitted() -> None:
    members = [demand("a"), replace(demand("b"), memory=2.5)]
    assert Governor().admits(demand("c"), members, MODEL, Capacity(memory=4.5))
    assert not Governor().admits(replace(demand("c"), memory=1.1), members, MODEL, Capacity(memory=4.5))


@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True, max_size=6), max_size=12), st.floats(0.01, 0.3))
def test_rungs_are_those_of_the_present_and_hold_where_they_can(crowds: list[list[str]], row: float) -> None:
    governor, cost = Governor(), model(row=row)
    for turn, crowd in enumerate(crowds):
        demands = [demand(name, steps=(4, 2, 1)) for name in sorted(crowd)]
        again = governor.governed(3.0 * turn, demands, cost, DEVICE)
        governor = governor.governed(3.0 * turn, demands, cost, DEVICE)
        assert governor == again
        assert governor.levels.keys() == set(crowd)
        assert all(0 <= rung <= 2 for rung in governor.levels.values())
