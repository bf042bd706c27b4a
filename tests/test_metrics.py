from __future__ import annotations

from streamgen.metrics import Metrics


def test_everything_is_exposed() -> None:
    metrics = Metrics()
    metrics.came_in()
    metrics.went_out(0.35, missed=True)
    metrics.dropped("rate", 3)
    metrics.session_opened()
    metrics.ran_batch(0.1, 3, {"encode": 0.02, "denoise": 0.06})
    metrics.planned(0.00015)
    metrics.governed([0, 1, 1], queued=2, promised=0.7, pressure=1.2, error=0.05)
    metrics.restarted()
    metrics.job_became(None, "queued")
    metrics.job_became("queued", "running")
    metrics.job_frames(4)
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
        "streamgen_engine_chunks_total 3.0",
        'streamgen_engine_stage_seconds_total{stage="denoise"} 0.06',
        'streamgen_scheduler_seconds_bucket{le="0.0002"} 1.0',
        'streamgen_sessions_at_rung{rung="1"} 2.0',
        "streamgen_sessions_queued 2.0",
        "streamgen_device_promised 0.7",
        "streamgen_scheduler_pressure 1.2",
        "streamgen_cost_model_error 0.05",
        'streamgen_jobs{state="queued"} 0.0',
        'streamgen_jobs{state="running"} 1.0',
        "streamgen_job_frames_total 4.0",
    ):
        assert line in text
    metrics.governed([0], queued=0, promised=0.1, pressure=1.0, error=0.05)
    assert 'streamgen_sessions_at_rung{rung="1"} 0.0' in metrics.exposition().decode()
    metrics.job_became("running", None)
    assert 'streamgen_jobs{state="running"} 0.0' in metrics.exposition().decode()
    metrics.session_closed()
    assert "streamgen_sessions 0.0" in metrics.exposition().decode()


def test_two_services_do_not_share_counters() -> None:
    one, two = Metrics(), Metrics()
    one.came_in()
    assert "streamgen_frames_in_total 0.0" in two.exposition().decode()
