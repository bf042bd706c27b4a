"""Figures and logs of latency runs that nobody ran."""

from __future__ import annotations

from typing import Any

from streamgen.bench.latency import Outcome
from streamgen.bench.measure import Figures, Log, ServerCounts, figures, overall
from streamgen.client import Quality

FPS = 16


def some_figures(**changes: Any) -> Figures:
    values: dict[str, Any] = {
        "ttff_ms": 500.0,
        "glass_to_glass_ms": {"p50": 1.0, "p95": 100.0, "p99": 1.0, "max": 1.0},
        "jitter_ms": 1.0,
        "fps_in": 16.0,
        "fps_out": 12.0,
        "frames_sent": 1,
        "frames_received": 1,
        "deadline_misses": 0,
        "drops": {},
        "first_5s_p50": 10.0,
        "last_5s_p50": 30.0,
        "unreadable": 0,
        "foreign": 0,
    }
    return Figures(**(values | changes))


def session_log(source: int = 0, frames: int = 160, *, slo_ms: float | None = 400.0, at_s: float = 0.0) -> Log:
    """A session that gets every fourth frame back, more slowly under load, on a ladder of three rungs."""
    log = Log(source, started=100.0, opened=100.0 + at_s, start_s=at_s, slo_ms=slo_ms)
    for number in range(frames):
        drawn = log.opened + 0.5 + number / FPS
        stamp = log.stamp(drawn)
        if number % 4:
            log.result(stamp, drawn + 0.2 + 0.3 * (number / frames) ** 2 + 0.01 * (number % 3), number / FPS)
    log.rungs.told(Quality(1, 3, 2, 16.0, 320, 192, "full", "load"), at_s + 4.0)
    log.rungs.told(Quality(2, 3, 1, 16.0, 240, 144, "light", "load"), at_s + 5.0)
    log.rungs.told(Quality(1, 3, 2, 16.0, 320, 192, "full", "room"), at_s + 8.0)
    log.stage(
        {"fill": 60.0, "queue": 20.0, "transfer": 2.0, "encode": 15.0, "denoise": 80.0, "decode": 18.0, "pace": 9.0}
    )
    return log


def waiting_log(source: int = 1) -> Log:
    """A session that was refused, then queued, and never let in."""
    log = Log(source, started=100.0, opened=101.0, start_s=1.0, slo_ms=400.0)
    log.admission.refused = log.admission.retries = 1
    log.admission.state("queued", 102.0)
    log.admission.positions = [3, 2]
    log.admission.left = 109.0
    log.admission.reason = "still in the queue after 8 s"
    log.stamp(102.5)
    return log


def outcome_of(*logs: Log, drops: dict[str, int] | None = None) -> Outcome:
    """What a run with these sessions comes to; `drops` are the first one's."""
    counts = [ServerCounts(2, drops or {}), *[ServerCounts(0, {})] * (len(logs) - 1)]
    sessions = [figures(log, count) for log, count in zip(logs, counts, strict=True)]
    return Outcome(tuple(sessions), overall(logs, sessions), tuple(logs))
