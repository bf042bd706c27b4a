"""What the service tells a client on the data channel `control`, as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The session's state is now `state`: queued, warming, live, paused, closed."""

    state: str


@dataclass(frozen=True, slots=True)
class Queue:
    """The session waits for room; until then its frames are dropped. Told again when that changes."""

    position: int
    """1 is the next."""
    estimate_s: float | None
    """Seconds until its turn; None where the service cannot tell."""


@dataclass(frozen=True, slots=True)
class Quality:
    """From the next chunk on the session runs so, which may be less than what was asked for."""

    rung: int
    """0 is what was asked for; each further rung is lighter."""
    rungs: int
    """How many there are, rung 0 included."""
    steps: int
    fps: float
    width: int
    """Of the results, in pixels."""
    height: int
    vae: str
    """full or light."""
    reason: str
    """load (too much is asked of the device), room (there is room again), asked (this client wishes something else)."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """The engine was restarted; the stream goes on with its parameters."""

    reason: str


@dataclass(frozen=True, slots=True)
class Moving:
    """The machine that has the session wants to be rid of it; the client opens it anew, elsewhere, by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The session was opened anew, with its parameters, as the machine that had it is gone, or wanted to be rid of it.
    It has another id, and its stream begins anew. Said by the client itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Closing:
    """The service ends the session now, and why."""

    reason: str


Event = StateChanged | Queue | Quality | Restarted | Moving | Moved | Closing


ADDED_LATER = ("network", "stages_ms")
"""Fields of Stats that older services do not send."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What the session gets, as the service measures it: rates per second, latencies in ms, counts since the start."""

    fps_in: float
    fps_out: float
    latency_ms: dict[str, float]
    """{"p50", "p95", "max"} over the last seconds, from a frame's arrival to its hand-over."""
    frames_in: int
    frames_out: int
    deadline_misses: int
    drops: dict[str, int]
    plan: dict[str, object]
    """What runs now: {"steps", "fps", "width", "height", "vae", "rung", "rungs"}, and more about the last chunk."""
    state: str
    network: dict[str, int] = field(default_factory=dict)
    """Packets of this client's video: {"packets", "missing", "recovered", "key_frame_requests"}."""
    stages_ms: dict[str, float] = field(default_factory=dict)
    """Where a frame's time goes on average: {"fill", "queue", "transfer", "encode", "denoise", "decode", "pace"}."""

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> Stats:
        """Fields that this version does not know are left out. Raises KeyError where one that it needs is missing."""
        needed = {f.name: message[f.name] for f in fields(cls) if f.name not in ADDED_LATER}
        added: dict[str, Any] = {name: dict(message.get(name, {})) for name in ADDED_LATER}
        return cls(**needed, **added)


def parse_event(message: Mapping[str, Any]) -> Event | None:
    """The event in `message`, or None for types that this version does not know. Raises KeyError."""
    match message.get("type"):
        case "state":
            return StateChanged(str(message["state"]))
        case "queue":
            estimate = message.get("estimate_s")
            return Queue(int(message["position"]), None if estimate is None else float(estimate))
        case "quality":
            return _quality(message)
        case "restarted":
            return Restarted(str(message["reason"]))
        case "moving":
            return Moving(str(message["reason"]))
        case "closing":
            return Closing(str(message["reason"]))
        case _:
            return None


def _quality(message: Mapping[str, Any]) -> Quality:
    return Quality(
        rung=int(message["rung"]),
        rungs=int(message["rungs"]),
        steps=int(message["steps"]),
        fps=float(message["fps"]),
        width=int(message["width"]),
        height=int(message["height"]),
        vae=str(message["vae"]),
        reason=str(message["reason"]),
    )
