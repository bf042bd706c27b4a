"""Attention backends: a table of functions, of which a model is given one when it is made."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from streamgen.errors import PresetError

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


def _xformers() -> Attention:
    """Meta's memory-efficient kernels. Raises PresetError where the package is not installed."""
    try:
        ops = importlib.import_module("xformers.ops")
    except ImportError:
        raise PresetError("attention xformers needs the package xformers: pip install 'streamgen[gpu]'") from None

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out: Tensor = ops.memory_efficient_attention(q, k, v, attn_bias=_bias(q, k, mask))
        return out.flatten(2)

    return attend


def _bias(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor | None:
    """(rows, heads, n, m), 0 or -inf, in memory rows of a multiple of eight numbers, as the kernels want them."""
    if mask is None:
        return None
    keys = k.shape[1]
    bias = q.new_zeros(mask.shape[0], 1, 1, (keys + 7) // 8 * 8)[..., :keys]
    bias.masked_fill_(~mask, -torch.inf)
    return bias.expand(-1, q.shape[2], q.shape[1], -1)


class Backends(Mapping[str, Attention]):
    """The table of backends, by name. What one needs is imported when it is chosen. Raises PresetError."""

    _made: ClassVar[Mapping[str, Callable[[], Attention]]] = {
        "sdpa": lambda: sdpa,
        "matmul": lambda: matmul,
        "xformers": _xformers,
    }

    def __getitem__(self, name: str) -> Attention:
        if name not in self._made:
            raise PresetError(f"no attention {name!r}; there are {', '.join(self._made)}")
        return self._made[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


BACKENDS = Backends()
