"""A contender: something that turns a stream's chunks into restyled ones and says where it is in doing so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from streamgen.core import Pixels

STAGES = ("encode", "denoise", "decode")

Lap = Callable[[str], None]
"""Told the name of each of STAGES as it ends."""

Weights = dict[str, Tensor]

PROMPT_TOKENS = 40
"""Tokens of the prompt; what follows is zeros, as with a real prompt."""
NOISE = 0.8


def silent(stage: str) -> None:
    """A lap that nobody times."""


class Side(Protocol):
    """One contender with one stream of one case."""

    name: str
    dtype: torch.dtype

    def begin(self, frames: Pixels) -> Pixels:
        """A new stream, through its first chunk; takes from (5, H, W, 3) what that chunk has."""
        ...

    def chunk(self, frames: Pixels, lap: Lap = silent) -> list[Pixels]:
        """The next chunk (4, H, W, 3) in; what is done of this one or an earlier one out."""
        ...

    def step(self, latent: Tensor) -> Tensor:
        """One denoising step of a noised latent (1, C, 1, h, w) at the level NOISE, the next of a stream that has
        nothing else, with no sink ever replaced: what both sides must agree on."""
        ...

    def forget(self) -> None:
        """Drops all streams and what they hold."""
        ...


def prompt_embedding(text_len: int, text_dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A made-up prompt's embedding (1, text_len, text_dim)."""
    text = torch.zeros(1, text_len, text_dim)
    words = min(PROMPT_TOKENS, text_len)
    text[:, :words] = torch.randn(1, words, text_dim, generator=torch.Generator().manual_seed(1))
    return text.to(device, dtype)
