"""The parts that a causal Wan pipeline is put together from, as protocols: codec (VAE) and text encoder.

Each family of weights brings its own; the pipeline knows these protocols alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from torch import Tensor

Half = Literal["encoder", "decoder"]


class Codec(Protocol):
    """A causal streaming VAE: 8x in space, 4 frames a latent frame, except the first, which stands for one frame.

    Weights hold no stream's state: `open` makes a state, the caller owns it, `encode` and `decode` change it.
    """

    @property
    def latent_channels(self) -> int: ...

    def open(self) -> Any:
        """The state of a stream that has not begun."""
        ...

    def encode(self, states: Sequence[Any], frames: Tensor) -> Tensor:
        """The latent frames (B, C, 1, H/8, W/8) of the next chunk of B streams, in the scale that the DiT expects.

        frames: (B, T, 3, H, W) float32 in -1..1 with T = 1 where the streams begin, else 4; all of them begin, or none.
        """
        ...

    def decode(self, states: Sequence[Any], latents: Tensor) -> Tensor:
        """The pictures (B, T, 3, H, W), about -1..1, of the next latent frames; T as for `encode`."""
        ...

    def part_with(self, half: Half) -> None:
        """Gives back the weights of a half that is not needed: another device has it."""
        ...


class TextEncoder(Protocol):
    """Prompts to what the DiT's cross-attention takes."""

    def encode(self, prompt: str) -> Tensor:
        """Embedding (1, text_len, text_dim) of a prompt, zero behind its end, on the DiT's device and in its format."""
        ...
