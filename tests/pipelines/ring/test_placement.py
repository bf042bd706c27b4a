from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import PRESETS
from pipelines.causal_wan.memory import shares_of
from pipelines.ring.placement import Candidate, Placement, plan
from pipelines.ring.replica import Device, Load, Replica, replica_of

GB = 10**9
PRESET = PRESETS["wan-1.3b"]
LOAD = Load(sessions=1, fps=16.0, steps=2, budget_s=1.0)
LARGE = Device("large", 80 * GB, row_s=0.02, encode_s=0.002, decode_s=0.004, hop_s=0.0003)
SMALL = Device("small", 12 * GB, row_s=0.08, encode_s=0.008, decode_s=0.016, hop_s=0.0003)


def planned(devices: Sequence[Device], load: Load = LOAD, preset: str = "wan-1.3b") -> Placement:
    chosen = PRESETS[preset]
    return plan(devices, shares_of(chosen.settings, replace(chosen.defaults, steps=load.steps)), load)


def best(placement: Placement) -> Candidate:
    assert placement.best is not None
    return placement.best


def about(placement: Placement, name: str) -> str:
    """What is said of one candidate."""
    (found,) = (reason for reason in placement.reasons if reason.startswith(f"{name}:"))
    return found.removeprefix(f"{name}: ")


def test_one_large_gpu() -> None:
    placement = planned([LARGE])
    assert best(placement).name == "1 x 1"
    assert placement.alternatives == ()
    assert placement.reasons == ("1 x 1: holds 4 sessions; a chunk takes 0.05 s of 0.81; no time for a further one",)


def test_small_gpus_that_the_model_fits_are_replicas() -> None:
    placement = planned([SMALL] * 8, replace(LOAD, sessions=8))
    assert best(placement).name == "8 x 1"
    assert best(placement).sessions == 8
    assert len(placement.reasons) == 8
    assert "room for" in about(placement, "1 x 8")


def test_a_model_that_is_too_large_for_one_gpu_is_laid_over_several() -> None:
    fast = replace(SMALL, memory_bytes=24 * GB, row_s=0.1)
    placement = planned([fast] * 4, replace(LOAD, steps=1), "wan-14b")
    assert best(placement).name == "1 x 4"  # where its weights are there once, and leave memory for sessions
    assert about(placement, "4 x 1").startswith("does not fit: it takes 35.1 GB with a session, of 21.6")
    assert about(placement, "2 x 2").startswith("room for 4.0 sessions instead of 6.9")


def test_a_session_that_no_gpu_keeps_up_with_alone_gets_a_ring() -> None:
    quick = replace(LOAD, fps=60.0)
    placement = planned([SMALL] * 4, quick)
    assert best(placement).name == "1 x 4"
    assert about(placement, "4 x 1") == "too slow: a session would get 19.6 of 60 fps"
    assert about(placement, "2 x 2") == "too slow: a session would get 38.6 of 60 fps"


def test_many_steps_within_a_tight_budget() -> None:
    """A ring shortens no chunk, but what a chunk waits for: the others before it."""
    tight = Load(sessions=4, fps=16.0, steps=4, budget_s=0.6)
    device = replace(SMALL, memory_bytes=24 * GB)
    placement = planned([device] * 4, tight)
    assert about(placement, "4 x 1") == "too slow: a session would get 10.5 of 16 fps"
    assert best(placement).name == "2 x 2"
    assert best(placement).sessions == 2
    hopeless = planned([device] * 4, replace(tight, budget_s=0.5))
    assert hopeless.best is None
    assert all("a chunk takes 0.3" in reason for reason in hopeless.reasons)


def test_a_ring_where_whole_sessions_do_not_come_out_even() -> None:
    """Each has the time of 1.9 sessions: by themselves eight hold 8, two and two 12."""
    device = replace(SMALL, row_s=0.05)
    few, many = planned([device] * 8, replace(LOAD, sessions=8)), planned([device] * 8, replace(LOAD, sessions=12))
    assert best(few).name == "8 x 1"
    assert best(many).name == "4 x 2"
    assert about(many, "8 x 1") == "holds 8 of the 12 sessions"


def test_unequal_devices_that_are_neighbours_share_by_their_speed() -> None:
    slow = replace(SMALL, row_s=0.4, encode_s=0.02, decode_s=0.06)
    placement = planned([LARGE, slow], replace(LOAD, fps=60.0))
    assert best(placement).name == "1 x 1, 1 idle"  # what the slow one adds is less than what it costs
    fair = planned([LARGE, replace(LARGE, row_s=0.04)], replace(LOAD, fps=60.0, sessions=2))
    assert best(fair).name == "1 x 2"
    (ring,) = best(fair).replicas
    assert ring.split == (21, 9)


def test_what_is_left_over_makes_a_ring_of_its_own_where_that_is_worth_it() -> None:
    """Six blocks over five devices are two for the slowest, as over three."""
    device = replace(SMALL, row_s=0.12, encode_s=0.001, decode_s=0.001)
    placement = planned([device] * 5, replace(LOAD, sessions=3), "tiny")
    assert best(placement).name == "1 x 3 + 1 x 2"
    assert (best(placement).sessions, best(placement).idle) == (3, 0)
    assert about(placement, "1 x 5") == "holds 2 of the 3 sessions"


def test_devices_that_cannot_take_part_stay_idle() -> None:
    toy = replace(SMALL, name="toy", memory_bytes=10**7)
    placement = planned([LARGE, LARGE, toy])
    assert best(placement).name == "2 x 1, 1 idle"
    assert (best(placement).idle, len(best(placement).troubles)) == (1, 1)


def test_nothing_fits() -> None:
    placement = planned([SMALL, SMALL], replace(LOAD, steps=1), "wan-14b")
    assert placement.best is None
    assert {one.name for one in placement.alternatives} == {"2 x 1", "1 x 2"}
    assert all("does not fit" in reason for reason in placement.reasons)


def test_what_holds_less_than_was_asked_for_says_so() -> None:
    placement = planned([LARGE], replace(LOAD, sessions=5))
    assert placement.reasons[0].startswith("1 x 1: holds 4 of the 5 sessions;")


def test_memory_that_bounds_the_sessions_is_named() -> None:
    quick = replace(SMALL, row_s=0.001, encode_s=0.0005, decode_s=0.0005)
    placement = planned([quick])
    assert placement.reasons[0].endswith("no memory for a further one")
    assert best(placement).sessions == best(placement).capacity


def test_estimates_are_marked() -> None:
    assert best(planned([replace(LARGE, estimated=True), LARGE])).estimated
    assert not best(planned([LARGE, LARGE])).estimated


def test_many_devices_are_divided_into_rings_of_one_length() -> None:
    placement = planned([SMALL] * 64, replace(LOAD, sessions=64))
    assert best(placement).name == "64 x 1"
    assert len(placement.reasons) == 64


def test_nothing_can_be_placed_on_no_devices() -> None:
    with pytest.raises(ValueError, match="no devices"):
        planned([])


devices_ = st.builds(
    Device,
    st.just("GPU"),
    st.sampled_from([6 * GB, 12 * GB, 24 * GB]),
    st.floats(0.01, 0.3),
    st.floats(0.001, 0.05),
    st.floats(0.001, 0.05),
    st.sampled_from([0.0, 0.005]),
)
loads = st.builds(Load, st.integers(1, 20), st.sampled_from([8.0, 16.0, 60.0]), st.integers(1, 4), st.floats(0.3, 2))


def divisions(devices: Sequence[Device]) -> list[list[tuple[Device, ...]]]:
    if not devices:
        return [[]]
    return [[tuple(devices[:size]), *rest] for size in range(1, len(devices) + 1) for rest in divisions(devices[size:])]


@given(st.lists(devices_, min_size=1, max_size=5), loads)
def test_no_division_serves_more_of_what_was_asked_for(devices: list[Device], load: Load) -> None:
    placement = planned(devices, load)
    shares = shares_of(PRESET.settings, replace(PRESET.defaults, steps=load.steps))
    most, room = 0, 0.0
    for rings in divisions(devices):
        replicas = [one for ring in rings if isinstance(one := replica_of(ring, shares, load), Replica)]
        served = min(sum(replica.sessions for replica in replicas), load.sessions)
        capacity = sum(replica.capacity for replica in replicas)
        most, room = max((most, room), (served, capacity))
    if placement.best is None:
        assert most == 0
        return
    assert placement.best.serves(load) == most
    assert placement.best.capacity >= room / 1.1 - 1e-9
    assert placement.best.idle + sum(len(one.devices) for one in placement.best.replicas) == len(devices)
    assert len(placement.reasons) == 1 + len(placement.alternatives)
