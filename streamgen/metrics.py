"""What the service tells Prometheus, in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_S = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0)
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

    def ran_batch(self, seconds: float) -> None:
        """The engine finished one batch."""
        self._batch.observe(seconds)

    def restarted(self) -> None:
        """An engine worker was replaced."""
        self._restarts.inc()

    def exposition(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)
