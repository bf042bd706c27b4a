"""These tests want a GPU. Without one they are skipped, unless STREAMGEN_GPU_TESTS=cpu asks for a trial on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    if os.environ.get("STREAMGEN_GPU_TESTS") == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """No gradients; float32 is float32 also in convolutions."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        yield
    torch.backends.cudnn.allow_tf32 = allowed
