"""Floating-point operations: of a pass of the DiT, by arithmetic, and the most that the machine does in a second, as
measured on one large matrix product."""

from __future__ import annotations

import math

import torch

from pipelines.bench.stopwatch import Patience, interleaved
from pipelines.causal_wan.geometry import DiTGeometry

PEAK_SIZE = {"cpu": 1024, "cuda": 8192}


def dit_flops(g: DiTGeometry, tokens: int, keys: int, rows: int = 1) -> int:
    """Of the matrix products of one pass of `rows` rows of `tokens` tokens that attend to `keys` tokens each.

    What is computed once per prompt is not among them.
    """
    patch = math.prod(g.patch) * g.latent_channels
    layer = (
        tokens * g.dim * (6 * g.dim + 2 * g.ffn_dim)  # qkv, out; q, out; feed-forward
        + 2 * tokens * (keys + g.text_len) * g.dim  # scores and sums of both attentions
    )
    cond = math.prod(g.patch) * g.cond_channels
    ends = tokens * (2 * patch + cond) * g.dim  # patches in, patches out
    time = g.freq_dim * g.dim + 7 * g.dim * g.dim
    return 2 * rows * (g.layers * layer + ends + time)


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a square matrix product of random numbers."""
    n = PEAK_SIZE[device.type]
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    for _ in range(2):
        torch.matmul(a, b)
    ms = interleaved({"product": lambda: torch.matmul(a, b)}, device, Patience(least=5, most=20, seconds=2.0))
    return 2 * n**3 / (1e-3 * ms["product"])
