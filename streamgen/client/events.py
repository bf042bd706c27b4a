"""What the service tells a client on the data channel `control`, as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The session's state is now `state`: warming, live, paused, closed."""

    state: str


@dataclass(frozen=True, slots=True)
class Queued:
    """The session waits for room; `position` 1 is next."""

    position: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """The engine was restarted; the stream goes on with its parameters."""

    reason: str


@dataclass(frozen=True, slots=True)
class Closing:
    """The service ends the session now, and why."""

    reason: str


Event = StateChanged | Queued | Restarted | Closing


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
    state: str
    network: dict[str, int] = field(default_factory=dict)
    """Packets of this client's video: {"packets", "missing", "recovered", "key_frame_requests"}."""

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> Stats:
        """Fields that this version does not know are left out. Raises KeyError where one that it needs is missing."""
        known = {f.name: message[f.name] for f in fields(cls) if f.name != "network"}
        return cls(**known, network=dict(message.get("network", {})))


def parse_event(message: Mapping[str, Any]) -> Event | None:
    """The event in `message`, or None for types that this version does not know. Raises KeyError."""
    match message.get("type"):
        case "state":
            return StateChanged(str(message["state"]))
        case "queue":
            return Queued(int(message["position"]))
        case "restarted":
            return Restarted(str(message["reason"]))
        case "closing":
            return Closing(str(message["reason"]))
        case _:
            return None
