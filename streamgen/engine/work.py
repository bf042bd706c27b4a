"""What the service hands to the engine and gets back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from streamgen.core import Params, PipelineSpec, Pixels

STATE_LOST = "state_lost"
"""Code of the error of a chunk whose stream state was gone before it was finished."""

Mode = Literal["sequential", "stream_batch"]
"""sequential: all steps of a chunk in one job. stream_batch: one step a job, beside the session's chunks in flight.

In a flow they are the same: there each chunk has all its steps in one job, and comes back with it.
"""


def depth_of(spec: PipelineSpec) -> int:
    """Batches that are on their way at once, so that no part of the pipeline has to wait for work: one in each, or one
    whose frames are copied meanwhile. In a flow, where batches that are unlike run into each other, twice as many as it
    has stages: with one for each these would be at work for two thirds of the time, or less.
    """
    if spec.flight > 1:
        return 2 * spec.stages
    return 3 if spec.overlap else 2


@dataclass(frozen=True, slots=True, eq=False)
class ChunkWork:
    """One chunk of one session, to be restyled."""

    session: str
    params: Params
    first: bool
    """Begins a stream: a state that the session has is closed, and a fresh one opened."""
    pixels: Sequence[Pixels]
    """Frames (H, W, 3) of params.width x params.height: spec.frames_wanted(first), or fewer at a stream's end.

    None at all, in sequential mode: what the session has in the stream batch is finished and answered, and that is all.
    """
    mode: Mode = "sequential"
    tag: int = 0
    """Comes back with the result; in a stream batch results come later than their chunks."""

    @property
    def flushes(self) -> bool:
        """Whether it only finishes what came before it. It gets no answer of its own then."""
        return not self.pixels and self.mode == "sequential"


@dataclass(frozen=True, slots=True, eq=False)
class ChunkDone:
    """The answer to one ChunkWork: pixels or an error. A session's answers come in the order of its chunks.

    A chunk whose stream is lost with a worker gets none, nor does one whose stream is forgotten, where it is not too
    late for that. After an error with `state_lost` the session's next chunk must be a first one.
    """

    session: str
    tag: int
    pixels: Pixels | None
    """(T, H, W, 3) in memory of its own, with T as submitted; None where there is an error."""
    info: Mapping[str, float]
    """"noise": the noise level that the pipeline chose for this chunk, in 0..1."""
    error: tuple[str, str] | None = None
    """(code, message in one line)."""
    state_lost: bool = False
    """The error cost the session its stream state."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """What one batch took in each stage (s), and how much work that was. Waiting between stages is in none of them, nor
    is the opening of stream states. A stage with nothing to do took no time: in a stream batch, decoding at first.
    """

    transfer: float
    """Copies of frames into the worker and back, in both processes."""
    encode: float
    denoise: float
    decode: float
    chunks: int
    """Encoded in one call."""
    calls: int
    """Of denoising."""
    rows: int
    """In all these calls together."""
    decoded: int
    """Chunks decoded; in a stream batch others than those encoded."""

    @property
    def stages(self) -> dict[str, float]:
        """The times by the name of their stage."""
        return {name: getattr(self, name) for name in ("transfer", "encode", "denoise", "decode")}


@dataclass(frozen=True, slots=True, eq=False)
class BatchDone:
    """The answers to a batch, and its times; no times where a chunk failed or was given up on the way, or a fault had
    some of it run again.
    """

    chunks: list[ChunkDone]
    times: StageTimes | None


@dataclass(frozen=True, slots=True)
class WarmupTimes:
    """What a batch took when the worker was warm: `times.chunks` chunks, of as many streams, all of this shape."""

    frames: int
    """Per chunk: spec.chunk_frames in the steady state, spec.first_chunk_frames where the streams begin."""
    width: int
    height: int
    steps: int
    times: StageTimes
    """Without transfer: no frame came from another process."""
