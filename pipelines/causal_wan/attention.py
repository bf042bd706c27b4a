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
"""Of queries (rows, n, heads, D), keys and values (rows, m, heads, D) and a mask (rows or 1, 1, 1, m): True where a key
may be attended to, or numbers in the queries' format to add to its scores, or None. Returns (rows, n, heads * D)."""

_QUERIES = 256


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """PyTorch's fused kernel for the device."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def matmul(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Two matrix products and a softmax: on CPUs with bfloat16 instructions faster than the fused kernel."""
    scores = (q * q.shape[-1] ** -0.5).transpose(1, 2) @ k.permute(0, 2, 3, 1)
    if mask is not None:
        scores = scores + _added(mask, q)
    return (scores.softmax(dim=-1) @ v.transpose(1, 2)).transpose(1, 2).flatten(2)


def by_head(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same, head by head and for so many queries at a time: keys and values need no copy, and the scores stay in a
    core's cache. Without gradients."""
    scaled, out = q * q.shape[-1] ** -0.5, torch.empty_like(q, memory_format=torch.contiguous_format)
    added = None if mask is None else _added(mask, q).expand(len(q), -1, -1, -1)
    for row in range(len(q)):
        for head in range(q.shape[2]):
            keys, values = k[row, :, head].t(), v[row, :, head]
            for start in range(0, q.shape[1], _QUERIES):
                part = slice(start, start + _QUERIES)
                scores = scaled[row, part, head] @ keys
                if added is not None:
                    scores += added[row, 0]
                out[row, part, head] = torch.softmax(scores, dim=-1, out=scores) @ values
    return out.flatten(2)


def _added(mask: Tensor, q: Tensor) -> Tensor:
    """What a mask adds to the scores."""
    if mask.dtype != torch.bool:
        return mask
    return q.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)


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
    """What is added to the scores (rows, heads, n, m), in memory rows of a multiple of eight numbers, as they want."""
    if mask is None:
        return None
    keys = k.shape[1]
    bias = q.new_zeros(len(q), 1, 1, (keys + 7) // 8 * 8)[..., :keys]
    bias.copy_(_added(mask, q))
    return bias.expand(-1, q.shape[2], q.shape[1], -1)


class Backends(Mapping[str, Attention]):
    """The table of backends, by name. What one needs is imported when it is chosen. Raises PresetError."""

    _made: ClassVar[Mapping[str, Callable[[], Attention]]] = {
        "sdpa": lambda: sdpa,
        "matmul": lambda: matmul,
        "by_head": lambda: by_head,
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
