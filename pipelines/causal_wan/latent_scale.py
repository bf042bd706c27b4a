"""The scale of Wan's latents: as the VAE makes them (raw), or with mean 0 and deviation 1 in each channel (normalised).

Wan's own pipelines show the DiT normalised latents. StreamDiffusionV2 encodes without scaling, so that its checkpoint
expects raw latents, yet it decodes the DiT's output as if it were normalised (`stream_encode` and
`stream_decode_to_pixel` of its package's VAE wrapper). So what goes into a DiT is a setting of each codec, and what
comes out of one always counts as normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LatentScale:
    """Mean and deviation of the latent channels, (C, 1, 1, 1) in float32, on the device of the latents."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], deviation: Sequence[float], device: torch.device) -> LatentScale:
        """The scale with these values per channel."""
        columns = torch.tensor([mean, deviation], dtype=torch.float32, device=device)[:, :, None, None, None]
        return cls(columns[0], columns[1])

    def normalised(self, raw: Tensor) -> Tensor:
        """Raw latents (B, C, T, H, W) to normalised ones of the same number format; computed in float32."""
        return ((raw.float() - self.mean) / self.deviation).to(raw.dtype)

    def raw(self, normalised: Tensor) -> Tensor:
        """Normalised latents (B, C, T, H, W) to raw ones of the same number format; computed in float32."""
        return (normalised.float() * self.deviation + self.mean).to(normalised.dtype)
