"""The most floating-point operations that the machine does in a second, as seen on large matrix products."""

from __future__ import annotations

import torch

from pipelines.bench.stopwatch import elapsed

PEAK_SIZE = {"cpu": 1024, "cuda": 8192}


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
