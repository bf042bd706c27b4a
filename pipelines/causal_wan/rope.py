"""Rotary positions in time, rows and columns.

A head's D channels form D/2 pairs (i, i + D/2); the first turn with time, the next with rows, the last with columns.
Angles are taken in float64 and modulo a full turn on the host, so that no position is too large.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.causal_wan.device import upload

THETA = 10000.0


class Rotation:
    """Cosines and sines (rows, tokens, 1, pairs), broadcast over heads."""

    def __init__(self, angles: Tensor, dtype: torch.dtype) -> None:
        angles = angles.unsqueeze(-2)
        self.cos = angles.cos().to(dtype)
        self.sin = angles.sin().to(dtype)

    @classmethod
    def of(cls, cos: Tensor, sin: Tensor) -> Rotation:
        """Of cosines and sines (..., pairs) that are already there."""
        rotation = cls.__new__(cls)
        rotation.cos, rotation.sin = cos, sin
        return rotation

    def __call__(self, x: Tensor) -> Tensor:
        """x (rows, tokens, heads, 2 * pairs), turned; in the format of x."""
        a, b = x.chunk(2, dim=-1)
        turned = torch.addcmul(a * self.cos, b, self.sin, value=-1), torch.addcmul(b * self.cos, a, self.sin)
        return torch.cat(turned, dim=-1).to(x.dtype)

    def back(self, x: Tensor) -> Tensor:
        """The inverse turn."""
        a, b = x.chunk(2, dim=-1)
        turned = torch.addcmul(a * self.cos, b, self.sin), torch.addcmul(b * self.cos, a, self.sin, value=-1)
        return torch.cat(turned, dim=-1).to(x.dtype)


class RoPE:
    """Angles for a head with the given pairs per axis."""

    def __init__(self, pairs: tuple[int, int, int], device: torch.device) -> None:
        self._pairs = pairs
        self._device = device
        self._frequencies = [THETA ** -(torch.arange(n, dtype=torch.float64) / n) for n in pairs]

    @property
    def time_pairs(self) -> int:
        return self._pairs[0]

    def angles(self, frames: Sequence[int], height: int, width: int) -> Tensor:
        """Angles (len(frames), height * width, D/2), float32, of whole latent frames at the given times."""
        time = self.time_angles(frames).expand(-1, height * width, -1)
        return torch.cat([time, self.space_angles(height, width).expand(len(frames), -1, -1)], dim=-1)

    def space_angles(self, height: int, width: int) -> Tensor:
        """Angles (1, height * width, pairs of rows and columns) of a latent frame's tokens."""
        rows, columns = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
        h = torch.outer(rows, self._frequencies[1])[:, None].expand(-1, width, -1)
        w = torch.outer(columns, self._frequencies[2])[None].expand(height, -1, -1)
        return self._on_device(torch.cat([h, w], dim=-1).flatten(0, 1)[None])

    def time_angles(self, frames: Sequence[int]) -> Tensor:
        """Angles (len(frames), 1, pairs of time) at the given times."""
        return self._on_device(torch.outer(torch.tensor(frames, dtype=torch.float64), self._frequencies[0])[:, None])

    def _on_device(self, angles: Tensor) -> Tensor:
        return upload(angles.remainder(2 * torch.pi).float(), self._device)


class FrameRotations:
    """The rotations of latent frames of one size. From frame to frame only the turn in time is new."""

    def __init__(self, rope: RoPE, grid: tuple[int, int], dtype: torch.dtype) -> None:
        """dtype: of the cosines and sines."""
        self._rope, self._dtype = rope, dtype
        self._space = Rotation(rope.space_angles(*grid), dtype)
        self.time_pairs = rope.time_pairs

    def __call__(self, times: Sequence[Sequence[int]]) -> Rotation:
        """Of rows of equally many latent frames at the given times: (rows, frames * tokens, 1, D/2)."""
        time = self.time([t for row in times for t in row])
        cos, sin = (
            torch.cat([t.expand(-1, s.shape[1], -1, -1), s.expand(t.shape[0], -1, -1, -1)], dim=-1)
            for t, s in ((time.cos, self._space.cos), (time.sin, self._space.sin))
        )
        rows = len(times)
        return Rotation.of(cos.unflatten(0, (rows, -1)).flatten(1, 2), sin.unflatten(0, (rows, -1)).flatten(1, 2))

    def time(self, times: Sequence[int]) -> Rotation:
        """Of time alone: (len(times), 1, 1, pairs of time)."""
        return Rotation(self._rope.time_angles(times), self._dtype)


def time_channels(x: Tensor, pairs: int) -> Tensor:
    """The channels of x (..., D) that turn with time, as pairs (i, i + pairs): (..., 2 * pairs)."""
    half = x.shape[-1] // 2
    return torch.cat([x[..., :pairs], x[..., half : half + pairs]], dim=-1)


def put_time_channels(x: Tensor, turned: Tensor) -> Tensor:
    """x (..., D) with other channels of time, (..., 2 * pairs)."""
    half = x.shape[-1] // 2
    a, b = turned.chunk(2, dim=-1)
    pairs = a.shape[-1]
    return torch.cat([a, x[..., pairs:half], b, x[..., half + pairs :]], dim=-1)
