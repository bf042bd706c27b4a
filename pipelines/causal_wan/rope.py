"""Rotary positions in time, rows and columns.

A head's D channels form D/2 pairs (i, i + D/2); the first turn with time, the next with rows, the last with columns.
Angles are taken in float64 and modulo a full turn on the host, so that no position is too large.
"""

from __future__ import annotations

import torch
from torch import Tensor

THETA = 10000.0


class Rotation:
    """Cosines and sines (rows, tokens, 1, D/2), broadcast over heads."""

    def __init__(self, angles: Tensor, dtype: torch.dtype) -> None:
        angles = angles.unsqueeze(-2)
        self.cos = angles.cos().to(dtype)
        self.sin = angles.sin().to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """x (rows, tokens, heads, D), turned."""
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], dim=-1)

    def back(self, x: Tensor) -> Tensor:
        """The inverse turn."""
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * self.cos + b * self.sin, b * self.cos - a * self.sin], dim=-1)


class RoPE:
    """Angles for a head with the given pairs per axis."""

    def __init__(self, pairs: tuple[int, int, int], device: torch.device) -> None:
        self._pairs = pairs
        self._device = device
        self._frequencies = [THETA ** -(torch.arange(n, dtype=torch.float64) / n) for n in pairs]

    def angles(self, frames: list[int], height: int, width: int) -> Tensor:
        """Angles (len(frames), height * width, D/2), float32, of whole latent frames at the given times."""
        rows, columns = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
        grid = torch.zeros(len(frames), height, width, sum(self._pairs), dtype=torch.float64)
        t, h, w = grid.split(list(self._pairs), dim=-1)
        t += torch.outer(torch.tensor(frames, dtype=torch.float64), self._frequencies[0])[:, None, None]
        h += torch.outer(rows, self._frequencies[1])[None, :, None]
        w += torch.outer(columns, self._frequencies[2])[None, None]
        return self._on_device(grid.flatten(1, 2))

    def time_angles(self, frames: list[int]) -> Tensor:
        """Angles (len(frames), 1, D/2) of time alone: the rows' and columns' pairs do not turn."""
        grid = torch.zeros(len(frames), 1, sum(self._pairs), dtype=torch.float64)
        grid[..., : self._pairs[0]] += torch.outer(torch.tensor(frames, dtype=torch.float64), self._frequencies[0])[
            :, None
        ]
        return self._on_device(grid)

    def _on_device(self, angles: Tensor) -> Tensor:
        return angles.remainder(2 * torch.pi).float().to(self._device)
