from __future__ import annotations

from streamgen.metrics import Metrics


def test_everything_is_exposed() -> None:
    metrics = Metrics()
    metrics.came_in()
    metrics.went_out(0.35, missed=True)
    metrics.dropped("rate", 3)
    metrics.session_opened()
    metrics.ran_batch(0.1)
    metrics.restarted()
    text = metrics.exposition().decode()
    for line in (
        "streamgen_frames_in_total 1.0",
        "streamgen_frames_out_total 1.0",
        'streamgen_frames_dropped_total{reason="rate"} 3.0',
        "streamgen_deadline_misses_total 1.0",
        'streamgen_frame_latency_seconds_bucket{le="0.4"} 1.0',
        "streamgen_sessions 1.0",
        "streamgen_sessions_opened_total 1.0",
        'streamgen_engine_batch_seconds_bucket{le="0.1"} 1.0',
        "streamgen_engine_restarts_total 1.0",
    ):
        assert line in text
    metrics.session_closed()
    assert "streamgen_sessions 0.0" in metrics.exposition().decode()


def test_two_services_do_not_share_counters() -> None:
    one, two = Metrics(), Metrics()
    one.came_in()
    assert "streamgen_frames_in_total 0.0" in two.exposition().decode()
