from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import CostModel, Line, Shape
from streamgen.scheduler.demand import Demand, Task, fits, levels, lowest, tasks, use
from streamgen.scheduler.quality import Quality

DEVICE = Capacity()


def model(fixed: float = 0.0, row: float = 0.05) -> CostModel:
    """A step of 64x64 takes `row` (s), and `fixed` a call; nothing else takes time."""
    return CostModel({("denoise", Shape(1, 64, 64)): Line(fixed, row, 0.0)})


def demand(name: str = "a", *, fps: float = 16.0, budget: float = 1.0, steps: tuple[int, ...] = (2, 1)) -> Demand:
    return Demand(name, tuple(Quality(count, fps, 64, 64, "full") for count in steps), 4, budget)


def test_a_session_is_a_periodic_task() -> None:
    at = demand()
    (task,) = tasks([(at, at.rungs[0])], model(), DEVICE)
    assert task.cost == pytest.approx(0.1)
    assert task.period == pytest.approx(0.25)
    assert task.slack == pytest.approx(1.0 - 3 / 16 - 0.015)


def test_cost_is_shared_where_batches_save() -> None:
    at = [(demand(name), demand().rungs[0]) for name in "abcd"]
    together = tasks(at, model(fixed=0.05, row=0.01), Capacity(max_batch=4))
    assert [task.cost for task in together] == pytest.approx([(2 * 0.05 + 8 * 0.01) / 4] * 4)
    assert [task.blocking for task in together] == pytest.approx([0.14] * 4)
    assert [task.cost for task in tasks(at, model(fixed=0.0, row=0.05), Capacity(max_batch=4))] == [0.1] * 4


def test_with_overlap_the_slowest_stage_counts() -> None:
    lines = {
        ("encode", Shape(4, 64, 64)): Line(0.0, 0.1, 0.0),
        ("denoise", Shape(1, 64, 64)): Line(0.0, 0.15, 0.0),
        ("decode", Shape(4, 64, 64)): Line(0.0, 0.1, 0.0),
    }
    at = demand(steps=(1,))
    costs = CostModel(lines)  # type: ignore[arg-type]
    (one,) = tasks([(at, at.rungs[0])], costs, Capacity())
    (overlapped,) = tasks([(at, at.rungs[0])], costs, Capacity(overlap=True))
    assert (one.cost, overlapped.cost) == (pytest.approx(0.35), pytest.approx(0.15))
    assert one.slack - overlapped.slack == pytest.approx(0.2)


def test_more_than_the_device_has_does_not_fit() -> None:
    assert fits([Task(0.1, 0.25, 0.8, 0.1)] * 2, 0.9)
    assert not fits([Task(0.1, 0.25, 0.8, 0.1)] * 3, 0.9)


def test_a_long_chunk_that_has_just_begun_may_make_a_short_deadline_late() -> None:
    hurried, slow = Task(0.02, 0.25, 0.1, 0.02), Task(0.3, 2.0, 3.0, 0.3)
    assert fits([hurried], 0.9)
    assert fits([slow], 0.9)
    assert not fits([hurried, slow], 0.9)
    assert fits([hurried._replace(slack=0.33), slow], 0.9)


def test_nothing_fits_that_has_no_time_at_all() -> None:
    assert not fits([Task(0.1, 1.0, -0.1, 0.1)], 0.9)


def test_the_best_rungs_are_found_and_as_alike_as_can_be() -> None:
    sessions = [demand(name) for name in "abc"]  # 0.4 of the device each at two steps, 0.2 at one
    assert levels(sessions[:2], model(), DEVICE, 0.9) == {"a": 0, "b": 0}
    assert levels(sessions, model(), DEVICE, 0.9) == {"a": 0, "b": 1, "c": 1}
    assert use(sessions, {"a": 0, "b": 1, "c": 1}, model(), DEVICE) == pytest.approx(0.8)


def test_there_are_loads_that_no_rung_helps() -> None:
    sessions = [demand(name) for name in "abcde"]
    assert levels(sessions, model(), DEVICE, 0.9) is None
    assert lowest(sessions) == dict.fromkeys("abcde", 1)


def test_a_session_that_forbids_rungs_stays_where_it_is() -> None:
    sessions = [demand("proud", steps=(2,)), demand("b"), demand("c")]
    assert levels(sessions, model(), DEVICE, 0.9) == {"proud": 0, "b": 1, "c": 1}


tasks_ = st.lists(
    st.builds(
        Task,
        st.floats(0.001, 0.2),
        st.floats(0.05, 2),
        st.floats(-0.1, 2),
        st.floats(0.001, 0.2),
    ),
    max_size=8,
)


@given(tasks_, st.floats(0.1, 1))
def test_what_fits_is_within_the_device_and_less_fits_as_well(work: list[Task], usable: float) -> None:
    if fits(work, usable):
        assert sum(task.cost / task.period for task in work) <= usable
        assert all(fits(work[:index] + work[index + 1 :], usable) for index in range(len(work)))
        assert fits([task._replace(cost=task.cost / 2, blocking=task.blocking / 2) for task in work], usable)


@given(st.integers(0, 6), st.floats(0.005, 0.2), st.floats(0.1, 0.9))
def test_more_capacity_never_lowers_a_rung(count: int, row: float, share: float) -> None:
    sessions = [demand(f"{number}", steps=(4, 3, 2, 1)) for number in range(count)]
    slow, quick = levels(sessions, model(row=row), DEVICE, 0.9), levels(sessions, model(row=row * share), DEVICE, 0.9)
    if slow is not None:
        assert quick is not None
        assert sum(quick.values()) <= sum(slow.values())


def test_of_a_flow_a_chunk_costs_a_share_of_its_work_and_takes_all_of_it() -> None:
    at = demand(steps=(2,))
    costs = model(row=0.1)
    (one,) = tasks([(at, at.rungs[0])], costs, DEVICE)
    (flowing,) = tasks([(at, at.rungs[0])], costs, Capacity(stages=4, flight=4, places=8, crowding=0.0))
    assert (one.cost, flowing.cost) == (pytest.approx(0.2), pytest.approx(0.05))
    assert flowing.blocking == pytest.approx(0.05)
    assert one.slack - flowing.slack == pytest.approx(0.15)


def test_four_devices_in_a_row_take_four_times_as_many_sessions_that_have_the_time() -> None:
    def most(capacity: Capacity) -> int:
        for count in range(1, 40):
            if levels([demand(f"{i}", steps=(2,)) for i in range(count)], model(row=0.02), capacity, 0.9) is None:
                return count - 1
        raise AssertionError("more than forty")

    flow = Capacity(stages=4, flight=4, places=8, crowding=0.0)
    assert most(DEVICE) == 5
    assert most(flow) == 22
    assert most(replace(flow, crowding=1.0)) < 22  # where they get into each other's way


def test_what_takes_too_long_in_all_is_no_quicker_through_several_devices() -> None:
    at = demand(budget=0.4, steps=(4,))  # of which filling the chunk takes 0.19 s, and its work 0.4 s
    for capacity in (DEVICE, Capacity(stages=4, flight=4, places=8, crowding=0.0)):
        assert levels([at], model(row=0.1), capacity, 0.9) is None
