"""The JSON messages of the data channel `control`: one object a message, both directions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from streamgen.errors import ParamsError, StreamgenError

CHANNEL = "control"
MAX_MESSAGE_BYTES = 16 * 1024


class WireError(StreamgenError):
    """A control message that cannot be understood."""

    code = "bad_message"


@dataclass(frozen=True, slots=True)
class Update:
    """Client: change these parameters; answered by Applied or Rejected with the same seq."""

    seq: int
    params: dict[str, object]


@dataclass(frozen=True, slots=True)
class Verb:
    """Client: pause, resume or reset the stream."""

    type: Literal["pause", "resume", "reset"]


@dataclass(frozen=True, slots=True)
class Applied:
    """Server: update `seq` holds from the frame with id `frame` on."""

    seq: int
    frame: int
    type: str = "applied"


@dataclass(frozen=True, slots=True)
class Rejected:
    """Server: update `seq` was refused; nothing changed. `error` is {"code", "message"}."""

    seq: int
    error: dict[str, str]
    type: str = "rejected"


@dataclass(frozen=True, slots=True)
class Stats:
    """Server, once a second: what the session gets. Rates per second, latencies in ms from arrival to hand-over."""

    fps_in: float
    fps_out: float
    latency_ms: dict[str, float]
    """{"p50", "p95", "max"} over the last seconds."""
    frames_in: int
    frames_out: int
    deadline_misses: int
    drops: dict[str, int]
    """Since the start, by reason."""
    plan: dict[str, object]
    """What the scheduler runs now: {"steps", "fps", "width", "height", "vae", "rung", "rungs"}, and of the last chunk
    {"mode", "batch", "frames", "service_ms", "noise"}."""
    state: str
    network: dict[str, int] = field(default_factory=dict)
    """Packets of the client's video: those that came, those that were missing, those that came late after all."""
    stages_ms: dict[str, float] = field(default_factory=dict)
    """Where a frame's time went lately, on average: "fill" (waiting for the rest of its chunk), "queue" (for the
    engine), "transfer", "encode", "denoise", "decode", "pace" (for its moment to be shown). They add up to its latency.
    """
    type: str = "stats"


@dataclass(frozen=True, slots=True)
class StateChanged:
    """Server: the session's state is now `state` (queued, warming, live, paused, ...)."""

    state: str
    type: str = "state"


@dataclass(frozen=True, slots=True)
class Queue:
    """Server: the session waits for room, and is told again when that changes. Its frames are dropped meanwhile."""

    position: int
    """1 is the next."""
    estimate_s: float | None
    """Seconds until its turn, as far as can be told from what left lately."""
    type: str = "queue"


@dataclass(frozen=True, slots=True)
class Quality:
    """Server: from the next chunk on the session runs so, and why. Sent when it changes."""

    rung: int
    """0 is what was asked for; each further rung is lighter."""
    rungs: int
    """How many there are, rung 0 included."""
    steps: int
    fps: float
    width: int
    height: int
    vae: str
    reason: str
    """load (too much is asked of the device), room (there is room again), asked (the client wishes something else)."""
    type: str = "quality"


@dataclass(frozen=True, slots=True)
class Restarted:
    """Server: the engine was restarted; the stream goes on with its parameters."""

    reason: str
    type: str = "restarted"


@dataclass(frozen=True, slots=True)
class Moving:
    """Server: this machine wants to be rid of the session. Open it anew, where it was opened first."""

    reason: str
    type: str = "moving"


@dataclass(frozen=True, slots=True)
class Closing:
    """Server: the session ends now, and why."""

    reason: str
    type: str = "closing"


ClientMessage = Update | Verb
ServerMessage = Applied | Rejected | Stats | StateChanged | Queue | Quality | Restarted | Moving | Closing


def decode_client(text: str | bytes) -> ClientMessage:
    """One client message. Raises WireError that says what is wrong with it."""
    if len(text) > MAX_MESSAGE_BYTES:
        raise WireError(f"message of {len(text)} bytes; at most {MAX_MESSAGE_BYTES} are taken")
    try:
        message: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise WireError("message is not JSON") from None
    if not isinstance(message, dict):
        raise WireError("message is not a JSON object")
    match message.get("type"):
        case "update":
            seq, params = message.get("seq"), message.get("params")
            if type(seq) is not int or not isinstance(params, dict):
                raise WireError('update needs {"seq": integer, "params": object}')
            return Update(seq, params)
        case "pause" | "resume" | "reset" as verb:
            return Verb(verb)
        case other:
            raise WireError(f"unknown message type {str(other)[:40]!r}")


def encode(message: ServerMessage) -> str:
    """JSON text of a server message."""
    return json.dumps({name: getattr(message, name) for name in message.__slots__})


def rejection(seq: int, error: StreamgenError) -> Rejected:
    """`error` as the answer to update `seq`; a ParamsError also names its field."""
    body = {"code": error.code, "message": error.message}
    if isinstance(error, ParamsError):
        body["field"] = error.field
    return Rejected(seq, body)
