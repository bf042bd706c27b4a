import pytest

from streamgen.bench.admission import Entry
from streamgen.bench.gates import check
from streamgen.bench.latency import Outcome
from streamgen.errors import ConnectError
from tests.support.figures import outcome_of, session_log, some_figures, waiting_log

OUT = Entry(admitted=False, queued=True, waited_s=8.0, reason="still in the queue")


@pytest.mark.parametrize(
    ("gate", "limit", "misses"),
    [
        ("max_ttff_ms", 499, "ttff_ms 500.0 is over 499"),
        ("max_ttff_ms", 500, None),
        ("max_p95_ms", 99, "p95_ms 100.0 is over 99"),
        ("max_p95_ms", 101, None),
        ("min_fps_out", 12.5, "fps_out 12.0 is under 12.5"),
        ("min_fps_out", 12, None),
        ("max_growth_ms", 19, "growth_ms 20.0 is over 19"),
        ("max_growth_ms", 20, None),
    ],
)
def test_gates(gate: str, limit: float, misses: str | None):
    outcome = Outcome((some_figures(), ConnectError("gone")), None)
    assert check(outcome, {gate: limit}) == ([f"session 1: {misses}"] if misses else [])


def test_a_gate_on_what_was_not_measured_is_missed():
    outcome = Outcome((some_figures(ttff_ms=None, first_5s_p50=None),), None)
    assert len(check(outcome, {"max_ttff_ms": 1e9, "max_growth_ms": 1e9})) == 2


def test_the_slo_holds_for_the_share_of_frames_that_missed_it():
    budgeted = some_figures(slo_ms=800.0, frames_due=200, misses=3, miss_rate=0.015)
    outcome = Outcome((budgeted, some_figures()), None)
    assert check(outcome, {"max_miss_rate": 1.5}) == []
    assert check(outcome, {"max_miss_rate": 1.0}) == ["session 1: 3 of 200 frames (1.5%) missed 800 ms; at most 1 %"]


def test_who_was_never_let_in_misses_the_first_frame_and_nothing_else():
    outcome = Outcome((some_figures(), some_figures(ttff_ms=None, fps_out=0.0, admission=OUT)), None)
    gates = {"max_ttff_ms": 900.0, "max_p95_ms": 900.0, "min_fps_out": 1.0, "max_miss_rate": 1.0}
    assert check(outcome, gates) == ["session 2: ttff_ms was not measured, for it was never let in"]


def test_one_must_be_let_in():
    assert check(Outcome((some_figures(admission=OUT),), None), {}) == ["no session was let in: still in the queue"]
    assert check(outcome_of(session_log(slo_ms=None), waiting_log()), {"max_miss_rate": 0.0}) == []


def test_where_all_failed_their_errors_are_enough():
    assert check(Outcome((ConnectError("gone"),), None), {"max_p95_ms": 1.0}) == []


def test_another_sessions_pictures_are_no_matter_of_limits():
    assert check(Outcome((some_figures(foreign=2),), None), {}) == ["session 1: 2 results were another session's"]
