from __future__ import annotations

from functools import cache

import pytest

from streamgen.simulation.contender import CONTENDERS
from streamgen.simulation.outcome import Outcome
from streamgen.simulation.run import simulate
from streamgen.simulation.sweep import lines, planned, plots
from streamgen.simulation.workload import DEVICE, offered, paced


@cache
def outcome(name: str, load: float) -> Outcome:
    return simulate(planned(CONTENDERS[name], "jittery", load, 30.0, 1))


def test_near_capacity_deadlines_hold_where_the_papers_order_misses_them() -> None:
    assert outcome("deadline", 0.9).miss_rate < 0.005
    assert outcome("fifo", 0.9).miss_rate > 0.2


def test_under_overload_what_is_delivered_is_in_time_and_everybody_gets_the_same_share() -> None:
    ours, theirs = outcome("deadline", 2.0), outcome("fifo", 2.0)
    assert ours.goodput > 0.95
    assert ours.p99_of_budget <= 1.0
    assert abs(ours.growth) < 50.0
    assert ours.fairness > 0.95
    assert theirs.goodput < 0.05
    assert theirs.growth > 2000.0


def test_lower_quality_keeps_promises_that_dropping_alone_cannot() -> None:
    lowered, dropped = outcome("full", 2.0), outcome("deadline", 2.0)
    assert lowered.miss_rate < 0.01
    assert lowered.goodput_fps > dropped.goodput_fps
    assert lowered.mean_rung > 1.0
    assert lowered.thinned > 0


def test_admission_keeps_the_promises_made_and_lets_the_rest_wait() -> None:
    some = outcome("admission", 2.0)
    assert some.miss_rate < 0.005
    assert some.queued + some.refused > 0


def test_a_run_can_be_repeated() -> None:
    run = planned(CONTENDERS["full"], "churn", 1.5, 6.0, 7)
    first, again = (simulate(run).as_dict() for _ in range(2))
    timed = ("plan_us", "plan_p99_us")
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in again.items() if k not in timed}
    assert simulate(planned(CONTENDERS["full"], "churn", 1.5, 6.0, 8)).offered_fps != first["offered_fps"]


@pytest.mark.parametrize("load", [0.2, 0.9, 3.0])
def test_the_load_is_what_was_asked_for(load: float) -> None:
    run = planned(CONTENDERS["deadline"], "steady", load, 10.0, 3)
    wanted = [visit.params for visit in run.visits]
    assert offered(wanted, run.device) == pytest.approx(load, rel=0.01)


def test_sessions_can_be_paced_to_a_load() -> None:
    wanted = [visit.params for visit in planned(CONTENDERS["deadline"], "steady", 0.9, 10.0, 3).visits]
    assert offered(paced(wanted, DEVICE, 0.5), DEVICE) == pytest.approx(0.5, rel=0.05)


def test_results_are_shown_as_a_table_and_as_plots() -> None:
    results = {name: {load: outcome(name, load) for load in (0.9, 2.0)} for name in ("deadline", "fifo")}
    table = lines(results)
    assert len(table) == 5
    assert table[1].split()[:2] == ["deadline", "0.90"]
    page = plots(results, "Load & more", "notes")
    assert page.count("<svg") == 6
    assert page.count("<polyline") == 12
    assert "Load &amp; more" in page
