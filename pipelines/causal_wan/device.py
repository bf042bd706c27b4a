"""Where and in which number format to compute."""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

from streamgen.errors import PresetError


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means here. Raises PresetError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise PresetError(f"no device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PresetError(f"no device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type not in ("cpu", "cuda"):
        raise PresetError(f"no device {name!r}; use auto, cpu, cuda or cuda:N")
    return device


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where it is the faster one: always on GPUs; on CPUs a short trial decides."""
    if device.type != "cpu":
        return torch.bfloat16
    return min((torch.float32, torch.bfloat16), key=_trial)


def _trial(dtype: torch.dtype) -> float:
    """Seconds of a small matrix product and convolution, the best of several."""
    x, w = torch.randn(256, 256, dtype=dtype), torch.randn(1024, 256, dtype=dtype)
    picture, kernel = torch.randn(1, 64, 48, 80, dtype=dtype), torch.randn(64, 64, 3, 3, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        F.linear(x, w)
        F.conv2d(picture, kernel, padding=1)
        best = min(best, time.perf_counter() - start)
    return best
