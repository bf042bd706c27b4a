"""What crosses the border between service and worker: small typed messages. Frames go beside them, in shared memory.

service                                worker
   |  <- Ready                            |     once, when the pipeline is built and warm
   |  Attach ->                           |     once
   |  Run ->                      <- Done |     several jobs at a time; answers in the order of the jobs, but in a flow
   |  Close ->                            |     any time, no answer
   |  Stop ->                             |     ends the worker, as the end of the pipe does
   |  <- Failed                           |     any time: the worker ends

The other processes of a team say nothing, but for a Failed.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from streamgen.core import Params, PipelineSpec
from streamgen.engine.work import Mode, StageTimes, WarmupTimes
from streamgen.errors import EngineError, StreamgenError


@dataclass(frozen=True, slots=True)
class Attach:
    """The memory now has `slots` slots of `slot_bytes`."""

    slot_bytes: int
    slots: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """ChunkWork whose frames, (frames, params.height, params.width, 3), lie in slot `slot`. One that flushes has 0."""

    session: str
    params: Params
    first: bool
    slot: int
    frames: int
    mode: Mode
    tag: int


@dataclass(frozen=True, slots=True)
class Run:
    """A batch. All of `slots` belong to the worker until it answers; inputs are in the chunks' slots."""

    job: int
    chunks: tuple[Chunk, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """The session's stream state is not needed any more, nor are its chunks in jobs that have not begun."""

    session: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End, after what was sent before."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The pipeline is built and warm."""

    spec: PipelineSpec
    warmup: tuple[WarmupTimes, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """ChunkDone whose pixels have this shape and lie in slot `slot`, or that has none."""

    session: str
    tag: int
    slot: int | None
    shape: tuple[int, ...]
    info: Mapping[str, float]
    error: tuple[str, str] | None
    state_lost: bool


@dataclass(frozen=True, slots=True)
class Done:
    """The job's answers; `traces` are the tracebacks of what was unexpected since the last answer, for the log."""

    job: int
    results: tuple[Result, ...]
    times: StageTimes | None
    """As BatchDone has them, with the worker's part of the transfer."""
    traces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The process failed, and ends."""

    code: str
    message: str
    trace: str
    at: float
    """When, on the machine's monotonic clock (s): of a team, where one failure leads to others, it tells the first."""

    @classmethod
    def because(cls, error: Exception) -> Failed:
        """Of what was raised just now."""
        return cls(*told(error), "".join(traceback.format_exception(error)), time.monotonic())


ToWorker = Attach | Run | Close | Stop
FromWorker = Ready | Done | Failed


def told(error: Exception) -> tuple[str, str]:
    """Code and message, in one line, of whatever was raised."""
    if isinstance(error, StreamgenError):
        return error.code, " ".join(error.message.split())
    return EngineError.code, one_line(error)


def one_line(error: BaseException) -> str:
    """Type and message of an exception that nobody expected, as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__
