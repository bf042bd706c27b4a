from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from pipelines.bench.random_weights import random_frames
from pipelines.causal_wan.compiling import compile_hindrance
from pipelines.registry import build
from pipelines.streaming import sequential as restyle
from tests.support.gpu_models import CPU, STAYING, batched, denoiser, difference, sequential

CLOSE = 1e-5
CHUNKS = 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # what compiling warns of is torch's own business
    pytest.mark.skipif(compile_hindrance(CPU) is not None, reason="no C++ compiler"),
]


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    with torch.inference_mode():
        yield
    torch.compiler.reset()


def test_compiled_blocks_compute_the_same_alone_and_side_by_side() -> None:
    """While the window fills and after, for one row and several; nothing falls back to what is not compiled."""
    eager = denoiser(CPU, torch.float32, STAYING)
    compiled = denoiser(CPU, torch.float32, STAYING, compiled=True)
    assert difference(sequential(compiled, 0, CHUNKS), sequential(eager, 0, CHUNKS)) < CLOSE
    many, expected = batched(compiled, [0, 1, 2], CHUNKS), batched(eager, [0, 1, 2], CHUNKS)
    for number in range(3):
        assert difference(many[number], expected[number]) < CLOSE
    assert counters["stats"]["unique_graphs"] >= 2, "nothing was compiled"
    assert not counters["graph_break"]


def test_no_stream_waits_for_the_compiler_later() -> None:
    """Whatever size and company it has, how long its prompt is, and however many steps it takes."""
    pipeline = build("tiny", "cpu", compiled=True)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 4
    for width, height, prompts in ((320, 192, 3), (256, 144, 1), (128, 128, 4), (64, 96, 2)):
        params = pipeline.spec.defaults.updated({"width": width, "height": height, "steps": 3})
        states = [pipeline.open(params.updated({"prompt": "oil " * (1 + 5 * i)})) for i in range(prompts)]
        clip = random_frames(9, height, width).numpy()
        for chunk in (clip[:1], clip[1:5], clip[5:]):
            restyle(pipeline, [(state, chunk) for state in states])
        for state in states:
            pipeline.close(state)
    assert counters["stats"]["unique_graphs"] == graphs
    assert not any("limit" in reason for kind in counters.values() for reason in kind)
