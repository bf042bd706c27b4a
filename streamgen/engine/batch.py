"""What is known of a batch, its chunks and their streams while it goes through the stages."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from streamgen.core import Params, Pixels, Row
from streamgen.engine.stages import Stopwatch
from streamgen.engine.work import ChunkDone, ChunkWork

S = TypeVar("S")


@dataclass(frozen=True, slots=True, eq=False)
class InFlight:
    """What has to be known of a chunk when it comes out of the stream batch."""

    tag: int
    strip: Pixels | None
    """Top rows of its input frames, where they are to be stamped: (T, STAMP_ROWS, W, 3)."""


@dataclass(slots=True, eq=False)
class Stream(Generic[S]):
    """A session's stream."""

    state: S
    params: Params
    flight: deque[InFlight] = field(default_factory=deque)
    """Oldest first; one for each row that the state has in the stream batch."""


@dataclass(slots=True, eq=False)
class Item(Generic[S]):
    """A chunk on its way through the stages."""

    chunk: ChunkWork
    stream: Stream[S] | None = None
    """Its session's, which is this item's alone until its batch is done."""
    row: Row[S] | None = None
    """As encoded."""
    strip: Pixels | None = None
    forgotten: bool = False
    """Its session was closed: nobody waits for it, and its stream is closed with its batch."""

    @property
    def admitted(self) -> Stream[S]:
        """The stream of a chunk that is in a stage."""
        assert self.stream is not None, "a chunk without a stream in a stage"
        return self.stream


@dataclass(slots=True, eq=False)
class Batch(Generic[S]):
    """Chunks on their way, between two stages."""

    items: Sequence[Item[S]]
    together: list[Item[S]] = field(default_factory=list)
    """Those that share every call."""
    alone: list[Item[S]] = field(default_factory=list)
    """Those that are run, or run again, each by itself when the others are done."""
    rows: list[Row[S]] = field(default_factory=list)
    """To be decoded."""
    answers: list[ChunkDone] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)
