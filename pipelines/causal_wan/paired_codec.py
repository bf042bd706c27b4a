"""Two codecs of the same latents as one: the encoder of the first, the decoder of the second.

Wan's encoder with TAEHV's decoder is what StreamDiffusionV2 runs as its fast variant: the encoder that its DiT was
trained with, and a decoder at a twentieth of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pipelines.causal_wan.parts import Codec, Half


class MeasuredCodec(Codec, Protocol):
    """A codec that knows what its two halves keep of a stream of frames of a size, in pixels."""

    def encoder_bytes(self, height: int, width: int, dtype: torch.dtype) -> int: ...

    def decoder_bytes(self, height: int, width: int, dtype: torch.dtype) -> int: ...


class PairedCodec:
    """A codec (parts.Codec) that encodes with one codec and decodes with another. Raises ValueError if they differ."""

    def __init__(self, encoder: MeasuredCodec, decoder: MeasuredCodec) -> None:
        if encoder.latent_channels != decoder.latent_channels:
            channels = f"{encoder.latent_channels} and {decoder.latent_channels}"
            raise ValueError(f"an encoder and a decoder of other latents cannot be paired: {channels} channels")
        self._encoder, self._decoder = encoder, decoder

    @property
    def latent_channels(self) -> int:
        return self._encoder.latent_channels

    def open(self) -> tuple[Any, Any]:
        return self._encoder.open(), self._decoder.open()

    def encode(self, states: Sequence[tuple[Any, Any]], frames: Tensor) -> Tensor:
        return self._encoder.encode([state for state, _ in states], frames)

    def decode(self, states: Sequence[tuple[Any, Any]], latents: Tensor) -> Tensor:
        return self._decoder.decode([state for _, state in states], latents)

    def part_with(self, half: Half) -> None:
        for codec in (self._encoder, self._decoder):
            codec.part_with(half)

    def bytes_per_state(self, height: int, width: int, dtype: torch.dtype) -> int:
        """Bytes that a stream of frames of this size, in pixels, keeps while it runs."""
        return self._encoder.encoder_bytes(height, width, dtype) + self._decoder.decoder_bytes(height, width, dtype)
