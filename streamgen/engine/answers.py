"""What chunks are answered with, where there is more to it than pixels."""

from __future__ import annotations

from streamgen.core import STAMP_ROWS, PipelineSpec, Pixels
from streamgen.engine.messages import told
from streamgen.engine.work import STATE_LOST, ChunkDone, ChunkWork
from streamgen.errors import EngineError


class StateLostError(EngineError):
    """The chunk goes on with a stream whose state is gone."""

    code = STATE_LOST


def check_can_begin(chunk: ChunkWork, spec: PipelineSpec) -> None:
    """Raises StateLostError for a chunk that goes on with a stream that there is not, and is too long to begin one."""
    if len(chunk.pixels) > spec.frames_wanted(first=True):
        raise StateLostError("the stream's state is gone; a first chunk must come next")


def refusals(chunk: ChunkWork, error: Exception) -> list[ChunkDone]:
    """The answer to a chunk that failed, if it gets one at all."""
    return [] if chunk.flushes else [ChunkDone(chunk.session, chunk.tag, None, {}, told(error))]


def cut_off(session: str, tag: int) -> ChunkDone:
    """The answer to a chunk whose stream was closed while it was on its way."""
    error = StateLostError("the stream's state was closed before this chunk was finished")
    return ChunkDone(session, tag, None, {}, told(error))


def strip_of(chunk: ChunkWork, pixels: Pixels) -> Pixels | None:
    """A copy of the top of the chunk's frames (T, H, W, 3), where it is to be copied onto its results."""
    return pixels[:, :STAMP_ROWS].copy() if chunk.params.stamp else None


def stamped(picture: Pixels, strip: Pixels | None) -> Pixels:
    """The picture (T, H, W, 3) with the strip (T, STAMP_ROWS, W, 3), if there is one, on its top."""
    if strip is None:
        return picture
    result = picture.copy()
    result[:, :STAMP_ROWS] = strip
    return result
