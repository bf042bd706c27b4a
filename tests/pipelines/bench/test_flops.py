import torch

from pipelines.bench.flops import Peak
from tests.support.gpu_models import CPU


def test_a_peak_only_rises() -> None:
    peak = Peak(CPU)
    peak.look(torch.float32)
    first = peak.of(torch.float32)
    assert first > 1e8
    peak.look(torch.float32)
    assert peak.of(torch.float32) >= first
