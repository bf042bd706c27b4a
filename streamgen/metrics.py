"""What the service tells Prometheus, in a registry of its own."""

from __future__ import annotations

from collections import Counter as CountOf
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_S = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0)
_PLAN_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01)
_BATCH_S = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 20.0)


class Metrics:
    """Counters of all sessions together. One per service."""

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._in = Counter("streamgen_frames_in", "Frames received from clients.", registry=registry)
        self._out = Counter("streamgen_frames_out", "Result frames handed over for sending.", registry=registry)
        self._drops = Counter("streamgen_frames_dropped", "Frames dropped.", ["reason"], registry=registry)
        self._misses = Counter("streamgen_deadline_misses", "Results handed over too late.", registry=registry)
        self._latency = Histogram(
            "streamgen_frame_latency_seconds",
            "Time from a frame's arrival to the hand-over of its result.",
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._sessions = Gauge("streamgen_sessions", "Open sessions.", registry=registry)
        self._opened = Counter("streamgen_sessions_opened", "Sessions opened.", registry=registry)
        self._batch = Histogram(
            "streamgen_engine_batch_seconds", "Time of one engine batch.", buckets=_BATCH_S, registry=registry
        )
        self._chunks = Counter("streamgen_engine_chunks", "Chunks that the engine ran.", registry=registry)
        self._stage = Counter(
            "streamgen_engine_stage_seconds", "Time that batches took, by stage.", ["stage"], registry=registry
        )
        self._plans = Histogram(
            "streamgen_scheduler_seconds",
            "The scheduler's own time for one decision: gathering, planning, submitting.",
            buckets=_PLAN_S,
            registry=registry,
        )
        self._rungs = Gauge("streamgen_sessions_at_rung", "Sessions by rung of quality.", ["rung"], registry=registry)
        self._rungs_seen: set[int] = set()
        self._queued = Gauge("streamgen_sessions_queued", "Sessions that wait for room.", registry=registry)
        self._promised = Gauge(
            "streamgen_device_promised", "Share of the device's time that promises take.", registry=registry
        )
        self._pressure = Gauge(
            "streamgen_scheduler_pressure", "How much dearer work is taken for than the model says.", registry=registry
        )
        self._cost_error = Gauge(
            "streamgen_cost_model_error", "Mean relative error of the cost model, lately.", registry=registry
        )
        self._jobs = Gauge("streamgen_jobs", "Jobs that are known, by state.", ["state"], registry=registry)
        self._job_frames = Counter("streamgen_job_frames", "Frames that jobs have written.", registry=registry)
        self._restarts = Counter("streamgen_engine_restarts", "Restarts of engine workers.", registry=registry)

    def came_in(self) -> None:
        """A frame came from a client."""
        self._in.inc()

    def went_out(self, latency_s: float, missed: bool) -> None:
        """A result was handed over."""
        self._out.inc()
        self._latency.observe(latency_s)
        if missed:
            self._misses.inc()

    def dropped(self, reason: str, count: int = 1) -> None:
        """Frames that will never go out."""
        self._drops.labels(reason).inc(count)

    def session_opened(self) -> None:
        """A session takes a place."""
        self._opened.inc()
        self._sessions.inc()

    def session_closed(self) -> None:
        """A session gave its place back."""
        self._sessions.dec()

    def job_became(self, before: str | None, after: str | None) -> None:
        """A job's state changed; None: there was no such job before, or is none any more."""
        if before is not None:
            self._jobs.labels(before).dec()
        if after is not None:
            self._jobs.labels(after).inc()

    def job_frames(self, count: int) -> None:
        """A job wrote so many results."""
        self._job_frames.inc(count)

    def ran_batch(self, seconds: float, chunks: int, stages: Mapping[str, float]) -> None:
        """The engine finished one batch; `stages`: the time of each (s), where known."""
        self._batch.observe(seconds)
        self._chunks.inc(chunks)
        for stage, its_seconds in stages.items():
            self._stage.labels(stage).inc(its_seconds)

    def planned(self, seconds: float) -> None:
        """The scheduler took a decision."""
        self._plans.observe(seconds)

    def governed(self, rungs: Iterable[int], *, queued: int, promised: float, pressure: float, error: float) -> None:
        """What the sessions run at, how many wait, what of the device is promised, and what the costs are worth."""
        counts = CountOf(rungs)
        self._rungs_seen |= counts.keys()
        for rung in self._rungs_seen:
            self._rungs.labels(str(rung)).set(counts[rung])
        self._queued.set(queued)
        self._promised.set(promised)
        self._pressure.set(pressure)
        self._cost_error.set(error)

    def restarted(self) -> None:
        """An engine worker was replaced."""
        self._restarts.inc()

    def exposition(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)
