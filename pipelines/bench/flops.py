"""Floating-point operations: of a pass of the DiT, by arithmetic, and the most that the machine does in a second, as
seen on large matrix products."""

from __future__ import annotations

import math

import torch

from pipelines.bench.stopwatch import elapsed
from pipelines.causal_wan.geometry import DiTGeometry

PEAK_SIZE = {"cpu": 1024, "cuda": 8192}


def dit_flops(g: DiTGeometry, tokens: int, keys: int, rows: int = 1) -> int:
    """Of the matrix products of one pass of `rows` rows of `tokens` tokens that attend to `keys` tokens each.

    What is computed once per prompt or noise level is not among them. The prompt counts with all of its tokens.
    """
    patch = math.prod(g.patch) * g.latent_channels
    layer = (
        tokens * g.dim * (6 * g.dim + 2 * g.ffn_dim)  # qkv, out; q, out; feed-forward
        + 2 * tokens * (keys + g.text_len) * g.dim  # scores and sums of both attentions
    )
    cond = math.prod(g.patch) * g.cond_channels
    ends = tokens * (2 * patch + cond) * g.dim  # patches in, patches out
    return 2 * rows * (g.layers * layer + ends)


class Peak:
    """The most floating-point operations a second that this machine was seen to do, for each number format."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen: dict[torch.dtype, float] = {}

    def look(self, dtype: torch.dtype) -> None:
        """Multiplies square matrices of random numbers. Once is not enough where other programs run as well."""
        n = PEAK_SIZE[self._device.type]
        a, b = (torch.randn(n, n, device=self._device, dtype=dtype) for _ in range(2))
        torch.matmul(a, b)
        ms = min(elapsed(lambda: torch.matmul(a, b), self._device) for _ in range(10))
        self._seen[dtype] = max(self._seen.get(dtype, 0.0), 2 * n**3 / (1e-3 * ms))

    def of(self, dtype: torch.dtype) -> float:
        return self._seen[dtype]
