from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.fake import FAKE_SPEC, FakeCost, FakePipeline, FakeState, Fault
from streamgen.core import Params
from streamgen.engine import StageTimes, WarmupTimes
from streamgen.engine.stages import Stages
from streamgen.engine.warmup import Warmup

SPEC = replace(FAKE_SPEC, defaults=Params(width=64, height=64, steps=3))
COST = FakeCost(encode_s=1.0, step_s=10.0, decode_s=100.0, encode_call_s=0.5)


class Watched(FakePipeline):
    """Keeps its states, and the time that it took."""

    now = 0.0

    def __init__(self, **options: object) -> None:
        super().__init__(**{"spec": SPEC, "cost": COST, "sleep": self._pass, **options})  # type: ignore[arg-type]
        self.opened: list[FakeState] = []

    def open(self, params: Params) -> FakeState:
        self.opened.append(super().open(params))
        return self.opened[-1]

    def _pass(self, seconds: float) -> None:
        self.now += seconds


def warmup(pipeline: Watched) -> Warmup[FakeState]:
    return Warmup(Stages(pipeline, lambda: pipeline.now))


def times(frames: int, chunks: int) -> WarmupTimes:
    stages = StageTimes(0.0, 0.5 + chunks, 30.0 * chunks, 100.0 * chunks, chunks, 3, 3 * chunks, chunks)
    return WarmupTimes(frames, 64, 64, 3, stages)


@pytest.mark.parametrize(
    ("first", "batch", "measured"),
    [
        (4, 1, [(4, 1)]),
        (1, 1, [(4, 1), (1, 1)]),
        (4, 2, [(4, 1), (4, 2)]),
        (1, 8, [(4, 1), (1, 1), (4, 2)]),
    ],
)
def test_each_shape_is_measured(first: int, batch: int, measured: list[tuple[int, int]]) -> None:
    pipeline = Watched(spec=replace(SPEC, first_chunk_frames=first))
    assert warmup(pipeline).measure(batch) == tuple(times(frames, chunks) for frames, chunks in measured)
    assert all(state.closed for state in pipeline.opened)


@pytest.mark.parametrize("stage", ["open", "encode", "denoise", "decode"])
def test_it_raises_what_the_pipeline_raises_and_leaves_nothing(stage: str) -> None:
    pipeline = Watched(faults={"": Fault(stage)})  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=stage):
        warmup(pipeline).measure(2)
    with pytest.raises(RuntimeError, match=stage):
        warmup(pipeline).check()
    assert all(state.closed for state in pipeline.opened)


def test_a_check_runs_a_chunk_of_either_kind() -> None:
    pipeline = Watched(spec=replace(SPEC, first_chunk_frames=1))
    warmup(pipeline).check()
    assert [(state.decoded, state.closed) for state in pipeline.opened] == [(2, True)]
