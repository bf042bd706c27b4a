"""The tiny preset's text encoder: words as hashed pieces, a small transformer. Runs once per prompt.

A word is the mean of the vectors of itself and of its character trigrams, each found by hash, so that a word never seen
before still lands near its relatives ("sketchy" near "sketch").
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class TextGeometry:
    """Sizes of the text encoder."""

    buckets: int
    dim: int
    layers: int
    heads: int
    length: int
    """Words taken of a prompt, and tokens given to the DiT."""


def words(prompt: str) -> list[str]:
    """The words of a prompt, lower case."""
    return _WORD.findall(prompt.lower())


def pieces(word: str, buckets: int) -> list[int]:
    """Hash buckets of a word and its trigrams (the word's borders count as characters)."""
    marked = f"<{word[:32]}>"
    parts = [marked, *(marked[i : i + 3] for i in range(len(marked) - 2))]
    return [zlib.crc32(part.encode()) % buckets for part in parts]


class TinyTextEncoder(nn.Module):
    """Prompts to embeddings (prompts, length, dim), zero behind a prompt's end, and to logits of known styles."""

    def __init__(self, geometry: TextGeometry, styles: int) -> None:
        super().__init__()
        self.geometry = geometry
        g = geometry
        self.embedding = nn.Embedding(g.buckets, g.dim)
        self.position = nn.Parameter(torch.randn(g.length, g.dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            g.dim, g.heads, 2 * g.dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, g.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(g.dim)
        self.style = nn.Linear(g.dim, styles)

    def forward(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings (prompts, length, dim) and style logits (prompts, styles)."""
        tokens = [words(prompt)[: self.geometry.length] for prompt in prompts]
        x = torch.stack([self._embed(token) for token in tokens]) + self.position
        counts = torch.tensor([max(len(token), 1) for token in tokens], device=x.device)
        empty = torch.arange(self.geometry.length, device=x.device) >= counts[:, None]
        x = self.norm(self.layers(x, src_key_padding_mask=empty)).masked_fill(empty[..., None], 0.0)
        return x, self.style(x.sum(dim=1) / counts[:, None])

    def _embed(self, tokens: Sequence[str]) -> Tensor:
        device = self.position.device
        x = torch.zeros(self.geometry.length, self.geometry.dim, device=device, dtype=self.position.dtype)
        if not tokens:
            return x
        found = [pieces(word, self.geometry.buckets) for word in tokens]
        flat = torch.tensor([p for word in found for p in word], device=device)
        vectors = self.embedding(flat).split([len(word) for word in found])
        return torch.cat([torch.stack([v.mean(dim=0) for v in vectors]), x[len(tokens) :]])


class TinyText:
    """The encoder as the pipeline's text encoder (parts.TextEncoder)."""

    def __init__(self, model: TinyTextEncoder) -> None:
        self._model = model

    def encode(self, prompt: str) -> Tensor:
        return self._model([prompt])[0]
