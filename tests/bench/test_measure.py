import dataclasses

import pytest

from streamgen.bench.barcode import NARROW, Stamp
from streamgen.bench.measure import Figures, Log, ServerCounts, figures, overall
from streamgen.client import Quality

NONE = ServerCounts(0, {})
FPS = 16


def quality(rung: int, reason: str = "load") -> Quality:
    return Quality(rung, 3, 2, 16.0, 320, 192, "full", reason)


def played(latencies: list[float], source: int = 0, start: float = 100.0) -> Log:
    """A session that sent a frame every 1/16 s and got each back after its latency (s)."""
    log = Log(source=source, started=start, opened=start + 0.5)
    for number, latency in enumerate(latencies):
        drawn = start + 1 + number / FPS
        log.result(log.stamp(drawn), drawn + latency, number / FPS)
    return log


def test_a_steady_stream():
    it = figures(played([0.25] * 161), ServerCounts(3, {"late": 2}))
    assert it.ttff_ms == pytest.approx(750)
    assert it.glass_to_glass_ms == pytest.approx({"p50": 250, "p95": 250, "p99": 250, "max": 250})
    assert it.jitter_ms == pytest.approx(0, abs=1e-6)
    assert it.fps_in == pytest.approx(16)
    assert it.fps_out == pytest.approx(16)
    assert (it.frames_sent, it.frames_received, it.unreadable, it.foreign) == (161, 161, 0, 0)
    assert (it.first_5s_p50, it.last_5s_p50) == (pytest.approx(250), pytest.approx(250))
    assert (it.deadline_misses, it.drops) == (3, {"late": 2})


def test_latency_that_grows_is_seen():
    it = figures(played([0.1 + 0.001 * n for n in range(320)]), NONE)
    assert it.first_5s_p50 is not None
    assert it.last_5s_p50 is not None
    assert it.last_5s_p50 - it.first_5s_p50 == pytest.approx(240, abs=10)


def test_percentiles_are_of_all_latencies():
    it = figures(played([n / 1000 for n in range(101)]), NONE)
    assert it.glass_to_glass_ms == pytest.approx({"p50": 50, "p95": 95, "p99": 99, "max": 100})


def test_jitter_is_what_arrivals_do_that_media_time_does_not():
    it = figures(played([0.100, 0.110] * 10), NONE)
    assert it.jitter_ms == pytest.approx(10)


def test_a_stream_that_stands_still_is_not_fast():
    log = played([0.1] * 160)
    for number in range(160):
        log.stamp(111 + number / FPS)  # sent, never answered
    it = figures(log, NONE)
    assert it.fps_in == pytest.approx(16, rel=0.01)
    assert it.fps_out == pytest.approx(8, rel=0.02)


def test_results_that_cannot_be_told_are_counted_and_not_measured():
    log = played([0.1] * 4)
    log.result(None, 102.0, 1.0)
    log.result(Stamp(0, 3, 1), 102.1, 1.1)  # its clock is not the one frame 3 was sent with
    log.result(Stamp(0, 900, 1), 102.2, 1.2)  # never sent
    log.result(dataclasses.replace(log.stamp(102.0), source=5), 102.3, 1.3)
    it = figures(log, NONE)
    assert (it.frames_received, it.unreadable, it.foreign) == (8, 3, 1)
    assert it.glass_to_glass_ms["max"] == pytest.approx(100)


def test_counter_and_clock_may_wrap():
    log = Log(source=1, started=0.0)
    for number in range(70_000):
        stamp = log.stamp(number / 60)
    assert stamp.counter < 2**16
    log.result(stamp, 69_999 / 60 + 0.2, 0.0)
    assert figures(log, NONE).glass_to_glass_ms["p50"] == pytest.approx(200)


def test_narrow_stamps_wrap_sooner_and_are_told_all_the_same():
    log = Log(source=1, started=0.0, layout=NARROW)
    for number in range(3000):
        stamp = log.stamp(number / 16)
    assert stamp.counter < 2**10
    log.result(stamp, 2999 / 16 + 0.2, 0.0)
    assert figures(log, NONE).glass_to_glass_ms["p50"] == pytest.approx(200)
    assert log.samples[0].frame == 2999


def test_misses_are_slow_results_and_frames_dropped_as_late_or_overload():
    log = played([0.1] * 70 + [0.3] * 10)
    log.slo_ms = 200.0
    for number in range(20):
        log.stamp(110 + number / FPS)
    it = figures(log, ServerCounts(99, {"late": 2, "overload": 3, "rate": 9, "queued": 1, "restart": 5}))
    assert (it.misses, it.frames_due) == (10 + 2 + 3, 100 - 9 - 1)
    assert it.miss_rate == pytest.approx(15 / 90)
    assert overall([log], [it]).miss_rate == it.miss_rate


def test_without_a_budget_nothing_is_missed_and_nothing_met():
    it = figures(played([0.1] * 70), NONE)
    assert (it.slo_ms, it.misses, it.miss_rate) == (None, None, None)
    assert overall([played([0.1])], [it]).misses is None


def test_stages_are_averaged_and_what_is_beyond_them_is_outside():
    log = played([0.2] * 20)
    log.stage({"fill": 50.0, "denoise": 90.0})
    log.stage({"fill": 70.0, "denoise": 70.0})
    log.stage({})
    it = figures(log, NONE)
    assert it.stages_ms == {"fill": 60.0, "denoise": 80.0}
    assert it.outside_ms == pytest.approx(60.0)
    other = figures(played([0.4] * 20), NONE)
    assert (other.stages_ms, other.outside_ms) == ({}, None)
    assert overall([log, played([0.4] * 20)], [it, other]).outside_ms == pytest.approx(60.0)


def test_rungs_are_counted_from_the_first_result_to_the_end():
    log = played([0.0] * (10 * FPS + 1))  # from 1 s to 11 s
    log.rungs.told(quality(2), 4.0)
    log.rungs.told(quality(0, "room"), 9.0)
    it = figures(log, NONE)
    assert it.rungs.seconds == pytest.approx({"0": 5.0, "2": 5.0})
    assert overall([log, log], [it, it]).rungs.changes == 4


def test_who_was_never_let_in_counts_in_sums_and_not_in_averages():
    outside = Log(source=1, started=100.0, opened=101.0)
    outside.admission.state("queued", 101.0)
    outside.admission.left = 111.0
    inside = played([0.1] * 100)
    sessions = [figures(inside, NONE), figures(outside, ServerCounts(0, {"queued": 5}))]
    it = overall([inside, outside], sessions)
    assert it.fps_out == sessions[0].fps_out
    assert (it.admission.admitted, it.admission.queued, it.admission.waited_s) == (1, 1, 10.0)
    assert it.drops == {"queued": 5}


def test_nothing_at_all_is_no_figure():
    it = figures(Log(source=0, started=0.0), NONE)
    assert it.ttff_ms is None
    assert it.glass_to_glass_ms == {"p50": None, "p95": None, "p99": None, "max": None}
    assert (it.jitter_ms, it.fps_in, it.fps_out) == (None, 0.0, 0.0)


def test_overall_pools_and_takes_the_worst():
    logs = [played([0.1] * 100), played([0.3] * 100, source=1, start=99.0)]
    sessions = [
        figures(logs[0], ServerCounts(1, {"late": 2})),
        figures(logs[1], ServerCounts(2, {"late": 1, "full": 4})),
    ]
    it = overall(logs, sessions)
    assert it.ttff_ms == pytest.approx(800)
    assert it.glass_to_glass_ms["p50"] == pytest.approx(200)
    assert it.glass_to_glass_ms["max"] == pytest.approx(300)
    assert it.fps_out == pytest.approx(16, rel=0.01)
    assert (it.frames_sent, it.deadline_misses, it.drops) == (200, 3, {"late": 3, "full": 4})


def test_the_report_has_the_contracts_names():
    report = figures(played([0.1] * 40), NONE).as_dict()
    assert set(report) >= {
        *("ttff_ms", "glass_to_glass_ms", "jitter_ms", "fps_in", "fps_out"),
        *("frames_sent", "frames_received", "deadline_misses", "drops"),
        *("misses", "miss_rate", "stages_ms", "rungs", "admission"),
    }
    assert set(report) == {field.name for field in dataclasses.fields(Figures)}
