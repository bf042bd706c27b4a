"""A session as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from streamgen.core import Frame, Params, Pixels
from streamgen.scheduler.policy import Mode, SessionView


@dataclass(frozen=True, slots=True, eq=False)
class Submission:
    """A chunk of a session that is on its way through the engine."""

    frames: tuple[Frame, ...]
    """Oldest first."""
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
    """What the batch took."""
    info: dict[str, float] = field(default_factory=dict)
    """What the pipeline chose, such as "noise"."""


class Stream(Protocol):
    """What gives chunks to the scheduler and takes their results. No method blocks."""

    @property
    def id(self) -> str:
        """Tells it from all others."""
        ...

    def view(self) -> SessionView | None:
        """What waits; None where nothing may run now."""
        ...

    def submit(self, frames: Sequence[int]) -> Submission:
        """These frames run now, with the parameters of now."""
        ...

    def drop(self, frames: Sequence[int], reason: str) -> None:
        """These queued frames are given up."""
        ...

    def deliver(self, work: Submission, pixels: Pixels, ran: Ran) -> None:
        """The result (T, H, W, 3) of `work`, which had T frames."""
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
