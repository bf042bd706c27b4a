"""The number format that training computes in: the one that the models run in on the same device."""

from __future__ import annotations

import torch

from pipelines.causal_wan.device import choose_dtype


def autocast(device: str) -> torch.autocast:
    """bfloat16 where the device has instructions for it. A CPU without them would be slower by it, not faster."""
    dtype = choose_dtype(torch.device(device))
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == torch.bfloat16)
