"""The first chunks of a worker, which nobody sees: they get slow beginnings over with, and show what chunks take."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Generic, TypeVar

import numpy as np

from streamgen.engine.stages import Stages, Stopwatch
from streamgen.engine.work import WarmupTimes

S = TypeVar("S")


class Warmup(Generic[S]):
    """Runs grey chunks at the default size and steps, in streams that are closed at its end."""

    def __init__(self, stages: Stages[S]) -> None:
        self._stages = stages
        self._spec = stages.spec
        self._open = ExitStack()

    def check(self) -> None:
        """Runs a first chunk and another. Raises what the pipeline raises."""
        with self._open:
            stream = self._stream()
            self._run([stream], first=True)
            self._run([stream])

    def measure(self, batch: int) -> tuple[WarmupTimes, ...]:
        """Times of a chunk in the steady state; of a stream's first one, where that has another length; and of two
        streams' chunks in one batch, where `batch` chunks are two or more. Raises what the pipeline raises.
        """
        with self._open:
            stream = self._stream()
            self._run([stream], first=True)
            self._run([stream])  # may still compile
            measured = [self._run([stream])]
            if self._spec.first_chunk_frames != self._spec.chunk_frames or batch > 1:
                other = self._stream()
                first = self._run([other], first=True)
                if first.frames != self._spec.chunk_frames:
                    measured.append(first)
                if batch > 1:
                    self._run([stream, other])
                    measured.append(self._run([stream, other]))
        return tuple(measured)

    def _stream(self) -> S:
        state = self._stages.open(self._spec.defaults)
        self._open.callback(self._stages.close, state)
        return state

    def _run(self, streams: Sequence[S], *, first: bool = False) -> WarmupTimes:
        """One chunk of each."""
        params, frames, watch = self._spec.defaults, self._spec.frames_wanted(first), Stopwatch()
        chunk = np.full((frames, params.height, params.width, 3), 127, np.uint8)
        rows = self._stages.encode([(stream, chunk) for stream in streams], watch)
        self._stages.decode(self._stages.denoise([], rows, [], watch), watch)
        return WarmupTimes(frames, params.width, params.height, params.steps, watch.times)
