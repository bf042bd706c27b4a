"""Floating-point operations of a causal Wan preset, by arithmetic from its settings: nothing is built. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipelines.causal_wan.codec_choice import HALVES, CodecChoice
from pipelines.causal_wan.geometry import DiTGeometry


class CodecFlops(NamedTuple):
    """Of a chunk of 4 frames, there and back."""

    encode: float
    decode: float


_PER_PIXEL = {"taehv": CodecFlops(0.61e6, 1.09e6), "wan_vae": CodecFlops(20.0e6, 33.8e6)}
"""Of a chunk, by the role of the weight file; counted while the codecs run."""


def dit_flops(g: DiTGeometry, tokens: int, keys: int, rows: int = 1) -> int:
    """Of the matrix products of one pass of `rows` rows of `tokens` tokens that attend to `keys` tokens each.

    What is computed once per prompt or noise level is not among them. The prompt counts with all of its tokens.
    """
    patch = math.prod(g.patch) * g.latent_channels
    layer = (
        tokens * g.dim * (6 * g.dim + 2 * g.ffn_dim)  # qkv, out; q, out; feed-forward
        + 2 * tokens * (keys + g.text_len) * g.dim  # scores and sums of both attentions
    )
    cond = math.prod(g.patch) * g.cond_channels
    ends = tokens * (2 * patch + cond) * g.dim  # patches in, patches out
    return 2 * rows * (g.layers * layer + ends)


def codec_flops(settings: Mapping[str, Any], width: int, height: int) -> CodecFlops:
    """Of the preset's full codec, for a chunk of this size in pixels. Raises PresetError for one that cannot be run."""
    if "codec" not in settings:
        each = _tiny_per_pixel(**settings["autoencoder"])
    else:
        encoder, decoder = HALVES[CodecChoice.from_settings(settings).full]
        each = CodecFlops(_PER_PIXEL[encoder].encode, _PER_PIXEL[decoder].decode)
    return CodecFlops(*(width * height * flops for flops in each))


def _tiny_per_pixel(latent_channels: int, width: int, frame_width: int) -> CodecFlops:
    """Of the tiny preset's autoencoder: its convolutions at 1/8 size once for a chunk, the others for each frame."""
    c, d, w = frame_width, 2 * frame_width, width
    residual = 2 * 9
    encode = (
        4 * (9 * 48 * c + residual * c * c) / 16  # at 1/4 size
        + (4 * 9 * c * d + 4 * d * w) / 64
        + (9 * 2 * w * w + residual * w * w + w * latent_channels) / 64
    )
    decode = (
        (9 * latent_channels * w + 9 * 2 * w * w + 2 * residual * w * w + 4 * d * w) / 64
        + 4 * (residual * d * d + 9 * d * 4 * c) / 64
        + 4 * (residual * c * c + 9 * c * 64) / 16
        + 4 * (residual * 16 * 16 + 9 * 16 * 12) / 4  # at 1/2 size
    )
    return CodecFlops(2 * encode, 2 * decode)
