from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from pipelines.causal_wan.build import COMPILERS
from tests.support.gpu_models import CPU, STAYING, batched, denoiser, difference, sequential

CLOSE = 1e-5
CHUNKS = 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # what compiling warns of is torch's own business
    pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler"),
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
    assert counters["stats"]["unique_graphs"] <= 8
    assert not counters["graph_break"]
