"""The pipeline's stages: in each of them one thread at a time, and a watch on what that takes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipelines.streaming import StreamBatch, finish
from streamgen.core import Params, Pipeline, PipelineSpec, Pixels, Row
from streamgen.engine.work import StageTimes

S = TypeVar("S")


@dataclass(slots=True)
class Stopwatch:
    """StageTimes of one batch as they add up: seconds, and work done."""

    transfer: float = 0.0
    encode: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0
    chunks: int = 0
    calls: int = 0
    rows: int = 0
    decoded: int = 0

    @property
    def times(self) -> StageTimes:
        """So far."""
        return StageTimes(
            transfer=self.transfer,
            encode=self.encode,
            denoise=self.denoise,
            decode=self.decode,
            chunks=self.chunks,
            calls=self.calls,
            rows=self.rows,
            decoded=self.decoded,
        )


class Stages(Generic[S]):
    """What the Pipeline protocol asks of threads is seen to here, and only here:

        encoding    open, update, encode, close   }
        denoising   denoise                       }  one call at a time under each lock
        decoding    decode                        }

    That no two batches share a state is the caller's part. All methods raise what the pipeline raises.
    """

    def __init__(self, pipeline: Pipeline[S], clock: Callable[[], float]) -> None:
        self.encoding = threading.RLock()
        """May be held over several calls."""
        self._pipeline = pipeline
        self._clock = clock
        self._denoising = threading.Lock()
        self._decoding = threading.Lock()
        self._denoiser = _WatchedDenoiser(pipeline, clock)
        self._batch = StreamBatch(self._denoiser)

    @property
    def spec(self) -> PipelineSpec:
        """The pipeline's."""
        return self._pipeline.spec

    def open(self, params: Params) -> S:
        """A fresh state."""
        with self.encoding:
            return self._pipeline.open(params)

    def update(self, state: S, params: Params) -> None:
        """New parameters for the state's next chunk."""
        with self.encoding:
            self._pipeline.update(state, params)

    def close(self, state: S) -> None:
        """Closes a state that no batch uses, and forgets what it has in the stream batch."""
        self._batch.discard(state)  # not under its lock: no denoising that runs now has to do with this state
        with self.encoding:
            self._pipeline.close(state)

    def encode(self, chunks: Sequence[tuple[S, Pixels]], watch: Stopwatch) -> list[Row[S]]:
        """One call for all (state, frames), if there are any."""
        if not chunks:
            return []
        with self.encoding:
            began = self._clock()
            rows = self._pipeline.encode(chunks)
            watch.encode += self._clock() - began
        watch.chunks += len(chunks)
        return rows

    def denoise(
        self, drained: Sequence[S], direct: Sequence[Row[S]], batched: Sequence[Row[S]], watch: Stopwatch
    ) -> list[Row[S]]:
        """Rows that are done: what the states in `drained`, and those of `direct`, have in the stream batch; all of
        `direct`; and what leaves the stream batch when `batched` come into it.
        """
        with self._denoising:
            self._denoiser.watch = watch
            earlier = self._batch.drain([*drained, *(row.state for row in direct)])
            return earlier + finish(self._denoiser, direct) + self._batch.advance(batched)

    def decode(self, rows: Sequence[Row[S]], watch: Stopwatch) -> list[tuple[Row[S], Pixels]]:
        """Rows with their pictures. Of a state with several rows, one a call: its decoder goes from one to the next."""
        earlier = Counter[int]()
        calls: dict[int, list[Row[S]]] = {}
        for row in rows:
            calls.setdefault(earlier[id(row.state)], []).append(row)
            earlier[id(row.state)] += 1
        pairs: list[tuple[Row[S], Pixels]] = []
        with self._decoding:
            for call in calls.values():
                began = self._clock()
                pictures = self._pipeline.decode(call)
                watch.decode += self._clock() - began
                pairs += zip(call, pictures, strict=True)
        watch.decoded += len(rows)
        return pairs


class _WatchedDenoiser(Generic[S]):
    """The pipeline's denoising, on the watch of whoever denoises now."""

    def __init__(self, pipeline: Pipeline[S], clock: Callable[[], float]) -> None:
        self.watch = Stopwatch()
        self._pipeline = pipeline
        self._clock = clock

    def denoise(self, rows: Sequence[Row[S]]) -> list[Row[S]]:
        """One call."""
        began = self._clock()
        stepped = self._pipeline.denoise(rows)
        self.watch.denoise += self._clock() - began
        self.watch.calls += 1
        self.watch.rows += len(rows)
        return stepped
