"""Flow matching with few steps: noising, the noise levels of the steps, clean prediction, and re-noising between steps.

At level s a latent is x_s = (1 - s) * clean + s * noise; the flow is noise - clean.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.causal_wan.device import upload
from pipelines.causal_wan.geometry import TIMESTEPS, Prediction, SamplerGeometry

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Level:
    """The noise levels (0..1) of one step. They are the same, except that lists of steps round and lag."""

    noise: float
    """To which the latent is noised before the step."""
    time: float
    """Which the DiT is told."""
    sigma: float
    """With which the clean latent is taken out of the DiT's prediction."""


class Sampler:
    """The noise levels of the steps, by the preset's schedule.

    The list of timesteps is StreamDiffusionV2's (arXiv 2511.07399): the first step is run `lag` timesteps below the
    noise level that the noise controller chose, the others where the list says; what a timestep stands for is the
    nearest of 1000 levels that the shift has moved toward 1.
    """

    def __init__(self, geometry: SamplerGeometry) -> None:
        self.geometry = geometry
        shift, parts = geometry.shift, [i / TIMESTEPS for i in range(1, TIMESTEPS + 1)]
        self._table = [shift * part / (1 + (shift - 1) * part) for part in parts]

    @property
    def most_steps(self) -> int | None:
        """Steps that the schedule has, None for as many as one likes."""
        return len(self.geometry.steps) or None

    def level(self, step: int, steps: int, start: float) -> Level:
        """Of `step` (from 0) of `steps`, where the chunk's noise level is `start`."""
        if self.geometry.schedule == "proportional":
            sigma = sigma_at(step, steps, start)
            return Level(sigma, sigma, sigma)
        if not 0 <= step < steps <= len(self.geometry.steps):
            raise ValueError(f"step {step} of {steps} is not in the list {list(self.geometry.steps)}")
        timestep = self._timestep(step, start)
        sigma = self.sigma(timestep)
        return Level(start if step == 0 else sigma, timestep / TIMESTEPS, sigma)

    def sigma(self, timestep: float) -> float:
        """The level of the table nearest to `timestep` (of 1000)."""
        wanted = timestep / TIMESTEPS
        above = min(bisect_left(self._table, wanted), TIMESTEPS - 1)
        below = max(above - 1, 0)
        return min(self._table[above], self._table[below], key=lambda level: abs(level - wanted))

    def _timestep(self, step: int, start: float) -> float:
        g = self.geometry
        first = max(int(TIMESTEPS * start + _ROUNDING) - g.lag, 0)
        if step == 0:
            return first
        if first > g.steps[1]:
            return g.steps[step]
        return first * g.steps[step] / g.steps[0]  # with little noise, so that no step adds more than the first had


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


def draw_noise(
    shape: tuple[int, ...], seed: int, step: int, device: torch.device, dtype: torch.dtype, chunk: int = 0
) -> Tensor:
    """Standard normal noise that depends on (seed, step, chunk) alone, whatever else runs beside it.

    Drawn on the CPU, so that every device gets the same.
    """
    generator = torch.Generator().manual_seed((seed * 16 + step + chunk * _CHUNK_STRIDE) % 2**63)
    return upload(torch.randn(shape, generator=generator).to(dtype), device)


_CHUNK_STRIDE = 0x9E3779B97F4A7C15  # odd and without pattern: no two (seed, step, chunk) of a service's life meet
