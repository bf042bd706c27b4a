import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.bench.case import Model
from pipelines.bench.flops import Peak, dit_flops
from tests.support.gpu_models import CPU, GEOMETRY, GRID, STAYING, clean, denoiser, opened


def test_the_arithmetic_counts_what_a_pass_computes() -> None:
    made = denoiser(CPU, torch.float32, STAYING, attention="matmul")
    some = next(made[1].parameters())
    tokens = GRID[0] * GRID[1]
    with torch.inference_mode():
        streams = [opened(made, number) for number in range(2)]
        for chunk in range(STAYING.window + 1):
            rows = [made[0].start(stream, clean(0, chunk, some), 1, 0.8) for stream in streams]
            with FlopCounterMode(display=False) as counter:
                made[0].step(rows)
    assert counter.get_total_flops() == dit_flops(GEOMETRY, tokens, STAYING.window * tokens, rows=2)


def test_of_the_1_3b_model_it_is_what_the_paper_s_roofline_needs() -> None:
    """6.74 TFLOP per latent frame and step at 832x480, 3.82 at 512x512, with a window of 6."""
    dit = Model.of_preset("wan-1.3b", {}).dit
    assert round(dit_flops(dit, 1560, 6 * 1560) / 1e12, 1) == 6.7
    assert round(dit_flops(dit, 1024, 6 * 1024) / 1e12, 1) == 3.8


def test_a_peak_only_rises() -> None:
    peak = Peak(CPU)
    peak.look(torch.float32)
    first = peak.of(torch.float32)
    assert first > 1e8
    peak.look(torch.float32)
    assert peak.of(torch.float32) >= first
