import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pipelines
from pipelines.streaming import StreamBatch, sequential
from streamgen.core import Params
from streamgen.errors import ParamsError, PresetError


def frames(seed: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), np.uint8)


def test_every_stream_gets_its_own_frames_back() -> None:
    pipeline = pipelines.build("passthrough")
    states = [pipeline.open(Params(width=64, height=64, steps=steps)) for steps in (1, 4)]
    for chunk in range(3):
        given = [frames(10 * chunk + i) for i in range(2)]
        got = sequential(pipeline, list(zip(states, given, strict=True)))
        assert all(np.array_equal(a, b) for a, b in zip(got, given, strict=True))


def test_in_a_stream_batch_frames_come_back_in_their_order() -> None:
    pipeline = pipelines.build("passthrough")
    state, batch = pipeline.open(Params(width=64, height=64, steps=3)), StreamBatch(pipeline)
    given = [frames(seed) for seed in range(5)]
    rows = [row for chunk in given for row in batch.advance(pipeline.encode([(state, chunk)]))] + batch.drain([state])
    assert all(np.array_equal(a, b) for a, b in zip(pipeline.decode(rows), given, strict=True))


def test_what_it_cannot_do_is_said() -> None:
    pipeline = pipelines.build("passthrough")
    with pytest.raises(ParamsError, match="height"):
        pipeline.open(Params(width=64, height=65))
    state = pipeline.open(Params(width=64, height=64))
    with pytest.raises(ParamsError, match="width"):
        pipeline.update(state, Params(width=80, height=64))
    with pytest.raises(PresetError, match="no model"):
        pipelines.build("passthrough", loras=[(Path("x.safetensors"), 1.0)])


def test_it_needs_no_torch() -> None:
    program = "import sys, pipelines; pipelines.build('passthrough'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
