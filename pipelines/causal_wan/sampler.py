"""Flow matching with few steps: noising, the noise levels of the steps, clean prediction, and re-noising between steps.

At level s a latent is x_s = (1 - s) * clean + s * noise; the flow is noise - clean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.causal_wan.geometry import Prediction


def sigma_at(step: int, steps: int, start: float) -> float:
    """Noise level at which `step` (from 0) of `steps` starts, when the first starts at `start`: equal parts to 0."""
    return start * (1.0 - step / steps)


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_s of (rows, C, 1, h, w) latents at levels sigma (rows,)."""
    s = sigma.view(-1, 1, 1, 1, 1).to(clean.dtype)
    return (1 - s) * clean + s * noise


def clean_from(prediction: Tensor, latent: Tensor, condition: Tensor | None, sigma: Tensor, kind: Prediction) -> Tensor:
    """The clean latent that a prediction for `latent` at level sigma stands for."""
    match kind:
        case "x0":
            return prediction
        case "residual":
            if condition is None:
                raise ValueError("a residual needs the condition that it belongs to")
            return condition + prediction
        case "flow":
            return latent - sigma.view(-1, 1, 1, 1, 1).to(latent.dtype) * prediction


def draw_noise(shape: tuple[int, ...], seed: int, step: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal noise that depends on (seed, step) alone, whatever else runs beside it; drawn on the CPU."""
    generator = torch.Generator().manual_seed(seed * 16 + step)
    return torch.randn(shape, generator=generator).to(device, dtype)
