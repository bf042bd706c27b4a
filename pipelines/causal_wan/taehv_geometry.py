"""Sizes of TAEHV, and from them what a stream carries from chunk to chunk. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DEPTH = 3
"""Memory blocks at each of the three sizes."""


@dataclass(frozen=True)
class TaehvGeometry:
    """Sizes of the autoencoder; by default those of `taew2_1`."""

    latent_channels: int = 16
    encoder_width: int = 64
    decoder_widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    """Channels at 1/8, 1/4, 1/2 and full size."""

    def encoder_bytes(self, height: int, width: int, dtype: torch.dtype) -> int:
        """Bytes that the encoder keeps of a stream of frames of this size, in pixels."""
        return self._bytes([self.encoder_width] * 3, height, width, dtype)

    def decoder_bytes(self, height: int, width: int, dtype: torch.dtype) -> int:
        """Bytes that the decoder keeps of a stream of frames of this size, in pixels."""
        return self._bytes(self.decoder_widths[2::-1], height, width, dtype)

    @staticmethod
    def _bytes(widths: Sequence[int], height: int, width: int, dtype: torch.dtype) -> int:
        """widths: channels at 1/2, 1/4 and 1/8 size."""
        pixels = [(height >> level) * (width >> level) for level in (1, 2, 3)]
        return DEPTH * sum(c * n for c, n in zip(widths, pixels, strict=True)) * dtype.itemsize
