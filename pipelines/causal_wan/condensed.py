"""A prompt's embedding without the repetition behind its end.

Text encoders fill up to `text_len` with zeros, and Wan's DiT attends to those as to any token. What the DiT makes of a
token depends on nothing but the token, so all of them have one key and one value: attended to once, with the weight of
all, the result is the same. Of 512 tokens a usual prompt leaves 64.

    embedding    t0 ... tn-1   0  0 ... 0               text_len tokens
    condensed    t0 ... tn-1   0               | 0 0    n + 1, filled up to a multiple of MULTIPLE, so that few lengths
    weights      0  ... 0      log(text_len-n) | -inf   come up; added to the scores
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines.causal_wan.device import upload

MULTIPLE = 64


def condensed(embedding: Tensor) -> tuple[Tensor, Tensor | None]:
    """An embedding (1, text_len, text_dim), shortened, and the weights (1, 1, 1, tokens) of its tokens' scores.

    Weights are None where nothing is gained. Looks at the embedding, and so waits for its device: once per prompt.
    """
    length = embedding.shape[1]
    used = _used(embedding)
    kept = -(-(used + 1) // MULTIPLE) * MULTIPLE
    if kept >= length:
        return embedding, None
    weights = torch.full((kept,), -math.inf)
    weights[:used] = 0.0
    weights[used] = math.log(length - used)
    return embedding[:, :kept], upload(weights.to(embedding.dtype), embedding.device)[None, None, None]


def lengthened(x: Tensor, tokens: int) -> Tensor:
    """Keys or values (rows, m, heads, D) with zeros up to `tokens`."""
    return F.pad(x, (0, 0, 0, 0, 0, tokens - x.shape[1])) if x.shape[1] < tokens else x


def lengthened_weights(weights: Tensor | None, of: int, tokens: int, like: Tensor) -> Tensor:
    """Weights (1, 1, 1, of), None for as usual, with what counts for nothing up to `tokens`."""
    known = like.new_zeros(1, 1, 1, of) if weights is None else weights
    return F.pad(known, (0, tokens - of), value=-math.inf)


def _used(embedding: Tensor) -> int:
    """Tokens up to the last one that is not zeros."""
    at = embedding[0].any(dim=-1).nonzero()
    return int(at.max()) + 1 if len(at) else 0
