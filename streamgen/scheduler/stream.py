"""A session as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from streamgen.core import Frame, Params, Pixels
from streamgen.engine.work import Mode, StageTimes
from streamgen.scheduler.demand import Demand
from streamgen.scheduler.policy import SessionView


@dataclass(frozen=True, slots=True, eq=False)
class Submission:
    """A chunk of a session that is on its way through the engine."""

    frames: tuple[Frame, ...]
    """Oldest first."""
    pixels: tuple[Pixels, ...]
    """What the engine gets: the frames' own, the last one again where the chunk has fewer than the model takes."""
    params: Params
    first: bool
    """It begins a stream."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a chunk was run."""

    mode: Mode
    batch: int
    """Chunks in the batch."""
    seconds: float
    """From the batch's submission to its results."""
    info: dict[str, float] = field(default_factory=dict)
    """What the pipeline chose, such as "noise"."""
    times: StageTimes | None = None
    """Of the batch, where they are known."""


class Stream(Protocol):
    """What gives chunks to the scheduler and takes their results. No method blocks."""

    @property
    def id(self) -> str:
        """Tells it from all others."""
        ...

    @property
    def client(self) -> str:
        """Whose it is."""
        ...

    def demand(self) -> Demand:
        """What it asks of the device."""
        ...

    def waiting(self, position: int, estimate_s: float | None) -> None:
        """There is no room for it yet, or, for a batch job that was admitted, any more; 1 is the next."""
        ...

    def admitted(self) -> None:
        """From now on its frames are run."""
        ...

    def run_at(self, rung: int, reason: str, promised: bool) -> None:
        """From the next chunk on it runs at this rung of its ladder; `promised`: its deadlines are to be kept."""
        ...

    def tally(self) -> tuple[int, int]:
        """Frames that were to be in time since the last call, and those of them that were late or lost for it."""
        ...

    def view(self) -> SessionView | None:
        """What waits; None where nothing may run now."""
        ...

    def submit(self, frames: Sequence[int], mode: Mode) -> Submission:
        """These frames run now, with the parameters of now; none: what the stream batch holds is finished."""
        ...

    def drop(self, frames: Sequence[int], reason: str) -> None:
        """These queued frames are given up."""
        ...

    def deliver(self, work: Submission, pixels: Pixels, ran: Ran) -> None:
        """The result (T, H, W, 3) of `work`, which has T pixels."""
        ...

    def lose(self, work: Submission, reason: str) -> None:
        """There will be no result of `work`, for a reason that is not its own fault."""
        ...

    def fail(self, work: Submission, reason: str, message: str, state_lost: bool) -> None:
        """There will be no result of `work`, which the engine failed at."""
        ...

    def restarted(self, reason: str) -> None:
        """The engine is a new one: the stream's state is gone, the next chunk is a first one."""
        ...

    def end(self, reason: str) -> None:
        """There is no engine any more."""
        ...
