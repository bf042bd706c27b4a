"""Sizes of a causal Wan DiT. They come from the preset's file; the code is the same for every size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Prediction = Literal["flow", "x0", "residual"]
"""What the DiT's output is: noise - clean (Wan), the clean latent, or the clean latent - the condition."""


@dataclass(frozen=True)
class DiTGeometry:
    """Wan2.1's 1.3B: dim 1536, ffn 8960, 12 heads, 30 layers, 16 latent channels, text 512 x 4096, flow prediction."""

    latent_channels: int
    cond_channels: int
    """Channels of the clean source latent beside the noised one; 0 for plain video to video."""
    patch: tuple[int, int, int]
    """Latent frames, rows and columns of a token."""
    dim: int
    ffn_dim: int
    heads: int
    layers: int
    freq_dim: int
    text_dim: int
    text_len: int
    prediction: Prediction
    eps: float = 1e-6

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> DiTGeometry:
        return cls(**{**settings, "patch": tuple(settings["patch"])})

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def rope_pairs(self) -> tuple[int, int, int]:
        """Rotated pairs of a head for time, rows and columns (Wan: rows and columns a third each, time the rest)."""
        third = self.head_dim // 6
        return self.head_dim // 2 - 2 * third, third, third


@dataclass(frozen=True)
class CacheGeometry:
    """Size of the rolling KV cache, in latent frames."""

    window: int
    """Latent frames attended to, the current one and the sinks among them."""
    sinks: int
    """Of these, how many are kept from the start of the scene."""
    sink_threshold: float
    """A sink less similar than this (cosine) to the current frame is replaced by it."""

    def __post_init__(self) -> None:
        if not 0 <= self.sinks < self.window:
            raise ValueError(f"{self.sinks} sinks do not fit a window of {self.window} latent frames")
