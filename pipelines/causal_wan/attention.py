"""Attention backends: a table of functions, of which a model is given one when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Of queries (rows, n, heads, D), keys and values (rows, m, heads, D) and a mask (rows, 1, 1, m), True where a key may
be attended to, or None; returns (rows, n, heads * D)."""


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """PyTorch's fused kernel for the device."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def matmul(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Two matrix products and a softmax: on CPUs with bfloat16 instructions faster than the fused kernel."""
    scores = (q * q.shape[-1] ** -0.5).transpose(1, 2) @ k.permute(0, 2, 3, 1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(dim=-1) @ v.transpose(1, 2)).transpose(1, 2).flatten(2)


BACKENDS: Mapping[str, Attention] = {"sdpa": sdpa, "matmul": matmul}
