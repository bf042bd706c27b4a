"""Wan2.1's diffusion transformer, causal over latent frames: a forward pass takes one latent frame per row (more where
a stream starts) and attends to what the KV cache holds. Written for one device; holds weights only.

Source of the architecture: Wan2.1 (arXiv 2503.20314), section 4; causal use: StreamDiffusionV2 (arXiv 2511.07399).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.causal_wan.attention import Attention, sdpa
from pipelines.causal_wan.condensed import lengthened, lengthened_weights
from pipelines.causal_wan.device import upload
from pipelines.causal_wan.geometry import TIMESTEPS, DiTGeometry
from pipelines.causal_wan.rope import Rotation

KINDS = 64
"""Most graphs of a compiled half of a block."""

LayerContext = tuple[Tensor, Tensor, Tensor | None]
"""Cross-attention keys and values of a prompt in a layer: (rows, tokens, heads, D) each; and what is added to the
scores of its tokens (rows or 1, 1, 1, tokens), None for nothing (see condensed)."""

TextContext = list[LayerContext]
"""Of a prompt, layer after layer."""

TimeContext = tuple[Tensor, Tensor]
"""What the layers need to know of the noise level: its embedding (rows, dim) and modulation (rows, 6, dim)."""


class Cache(Protocol):
    """What attention needs of a KV cache during one forward pass (see cache.CacheStep)."""

    rotation: Rotation
    mask: Tensor | None

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension, in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class SelfAttention(nn.Module):
    """Attention of the current latent frame to itself and to the cached ones."""

    def __init__(self, g: DiTGeometry) -> None:
        super().__init__()
        self.heads = g.heads
        self.qkv = nn.Linear(g.dim, 3 * g.dim)
        self.norm_q = RMSNorm(g.dim, g.eps)
        self.norm_k = RMSNorm(g.dim, g.eps)
        self.out = nn.Linear(g.dim, g.dim)

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, turned, and values of x (rows, tokens, dim): (rows, tokens, heads, D) each."""
        qk, v = self.qkv(x).unflatten(-1, (3, -1)).split([2, 1], dim=-2)
        scales = torch.stack([self.norm_q.weight, self.norm_k.weight])
        qk = (F.rms_norm(qk, qk.shape[-1:], eps=self.norm_q.eps) * scales).to(v.dtype)
        q, k = rotation(_split(qk.flatten(-2), 2 * self.heads)).chunk(2, dim=-2)
        return q, k, _split(v.squeeze(-2), self.heads)


class CrossAttention(nn.Module):
    """Attention to the prompt; its keys and values are computed once per prompt."""

    def __init__(self, g: DiTGeometry, attend: Attention) -> None:
        super().__init__()
        self.attend = attend
        self.heads = g.heads
        self.q = nn.Linear(g.dim, g.dim)
        self.kv = nn.Linear(g.dim, 2 * g.dim)
        self.norm_q = RMSNorm(g.dim, g.eps)
        self.norm_k = RMSNorm(g.dim, g.eps)
        self.out = nn.Linear(g.dim, g.dim)

    def context(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of text (rows, tokens, dim)."""
        k, v = self.kv(text).chunk(2, dim=-1)
        return _split(self.norm_k(k), self.heads), _split(v, self.heads)

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
        q = _split(self.norm_q(self.q(x)), self.heads)
        return self.out(self.attend(q, *context))


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward; the first and last are modulated by the noise level.

    In two halves, with the cache and the attention to it between them: what lies within a half depends on nothing but
    tensors, and can be compiled.
    """

    def __init__(self, g: DiTGeometry, attend: Attention) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(g.dim, g.eps, elementwise_affine=False)
        self.self_attention = SelfAttention(g)
        self.norm3 = nn.LayerNorm(g.dim, g.eps)
        self.cross_attention = CrossAttention(g, attend)
        self.norm2 = nn.LayerNorm(g.dim, g.eps, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(g.dim, g.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(g.ffn_dim, g.dim))
        self.modulation = nn.Parameter(torch.randn(6, g.dim) / g.dim**0.5)

    def before(self, x: Tensor, modulation: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (rows, tokens, dim); modulation (rows, 6, dim), cos and sin of the rotation."""
        shift, scale = (modulation[:, :2] + self.modulation[:2]).unsqueeze(2).unbind(1)
        seen = torch.addcmul(shift, self.norm1(x), 1 + scale)
        return self.self_attention.project(seen, Rotation.of(cos, sin))

    def after(
        self, x: Tensor, attended: Tensor, modulation: Tensor, context: tuple[Tensor, Tensor, Tensor | None]
    ) -> Tensor:
        """x with what it attended to (rows, tokens, dim) worked in."""
        gate1, shift2, scale2, gate2 = (modulation[:, 2:] + self.modulation[2:]).unsqueeze(2).unbind(1)
        x = torch.addcmul(x, gate1, self.self_attention.out(attended))
        x = x + self.cross_attention(self.norm3(x), context)
        return torch.addcmul(x, gate2, self.ffn(torch.addcmul(shift2, self.norm2(x), 1 + scale2)))


class Head(nn.Module):
    """Modulated norm and projection to the patch's channels."""

    def __init__(self, g: DiTGeometry) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(g.dim, g.eps, elementwise_affine=False)
        self.linear = nn.Linear(g.dim, math.prod(g.patch) * g.latent_channels)
        self.modulation = nn.Parameter(torch.randn(2, g.dim) / g.dim**0.5)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (rows, tokens, dim), time (rows, dim)."""
        shift, scale = (time.unsqueeze(1) + self.modulation).unsqueeze(2).unbind(1)
        return self.linear(self.norm(x) * (1 + scale) + shift)


class CausalWanModel(nn.Module):
    """The causal Wan DiT. What its output means is `geometry.prediction`: the flow (noise - clean) in Wan's own."""

    def __init__(self, geometry: DiTGeometry, attend: Attention = sdpa) -> None:
        super().__init__()
        g = self.geometry = geometry
        channels = g.latent_channels + g.cond_channels
        self.patch_embedding = nn.Conv3d(channels, g.dim, g.patch, stride=g.patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(g.text_dim, g.dim), nn.GELU(approximate="tanh"), nn.Linear(g.dim, g.dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(g.freq_dim, g.dim), nn.SiLU(), nn.Linear(g.dim, g.dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(g.dim, 6 * g.dim))
        self.blocks = nn.ModuleList(Block(g, attend) for _ in range(g.layers))
        self.head = Head(g)
        self._attend = attend
        self._before, self._after = Block.before, Block.after

    def compile_blocks(self) -> None:
        """Compiles the halves of the blocks, once for all layers, when they are first run with tensors of a kind.

        What the cache does stays as it is: it differs from frame to frame until the window is full. Sizes and numbers
        of rows are left open from the second on; the kinds that remain (prompts with and without weights, joined and
        repeated ones) are more than the 8 after which torch would give up, unasked.
        """
        settings = torch._dynamo.config  # noqa: SLF001 - where torch keeps them
        settings.recompile_limit = max(settings.recompile_limit, KINDS)
        self._before, self._after = torch.compile(Block.before), torch.compile(Block.after)

    def context(self, text: Tensor, weights: Tensor | None = None) -> TextContext:
        """What cross-attention needs of text embeddings (rows, tokens, text_dim), once per prompt.

        weights: added to the scores of the tokens, (rows or 1, 1, 1, tokens).
        """
        return self.layers_context(range(self.geometry.layers), self.text_embedding(text), weights)

    def layers_context(self, layers: Sequence[int], embedded: Tensor, weights: Tensor | None) -> TextContext:
        """The same for these layers alone, of text that has gone through `text_embedding`."""
        return [(*self._block(layer).cross_attention.context(embedded), weights) for layer in layers]

    def times(self, sigma: Tensor) -> TimeContext:
        """What the layers need of noise levels (rows,) in 0..1."""
        dtype = self.patch_embedding.weight.dtype
        time = self.time_embedding(sinusoid(float(TIMESTEPS) * sigma, self.geometry.freq_dim).to(dtype))
        return time, self.time_projection(time).unflatten(1, (6, -1))

    def forward(
        self, latent: Tensor, condition: Tensor | None, sigma: Tensor | TimeContext, context: TextContext, cache: Cache
    ) -> Tensor:
        """The prediction for the latent frames of each row.

        latent: (rows, C, frames, h, w), noised to level sigma; condition: (rows, cond_channels, frames, h, w) or None;
        sigma: (rows,) in 0..1, or from `times`; context: from `context`; returns (rows, C, frames, h, w).
        """
        x, grid = self.embed(latent, condition)
        time, modulation = self.times(sigma) if isinstance(sigma, Tensor) else sigma
        x = self.through(range(self.geometry.layers), x, modulation, context, cache)
        return self.predict(x, time, grid)

    def embed(self, latent: Tensor, condition: Tensor | None) -> tuple[Tensor, torch.Size]:
        """Latent frames, as for `forward`, to tokens (rows, tokens, dim) and their grid (frames, rows, columns)."""
        x = self.patch_embedding(latent if condition is None else torch.cat([latent, condition], dim=1))
        return x.flatten(2).transpose(1, 2).contiguous(), x.shape[2:]

    def through(
        self, layers: Sequence[int], x: Tensor, modulation: Tensor, context: TextContext, cache: Cache
    ) -> Tensor:
        """Tokens (rows, tokens, dim) through these layers; modulation (rows, 6, dim); context: of these layers."""
        cos, sin = cache.rotation.cos, cache.rotation.sin
        for layer, told in zip(layers, context, strict=True):
            block = self._block(layer)
            q, k, v = self._before(block, x, modulation, cos, sin)
            keys, values = cache.extend(layer, k, v)
            x = self._after(block, x, self._attend(q, keys, values, cache.mask), modulation, told)
        return x

    def predict(self, x: Tensor, time: Tensor, grid: Sequence[int]) -> Tensor:
        """Tokens that went through all layers to what `forward` returns; time (rows, dim)."""
        x = self.head(x, time).unflatten(1, grid).unflatten(-1, (*self.geometry.patch, -1))
        # channels are last within a patch, as in Wan
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def _block(self, layer: int) -> Block:
        block = self.blocks[layer]
        assert isinstance(block, Block)
        return block


class TimeContexts:
    """What a DiT's layers need of noise levels, remembered: a level comes again and again."""

    def __init__(self, model: CausalWanModel, device: torch.device, most: int = 256) -> None:
        """most: how many levels are remembered."""
        self._model, self._device, self._most = model, device, most
        self._known: dict[float, TimeContext] = {}

    def __call__(self, levels: Sequence[float]) -> TimeContext:
        """For rows at these levels (0..1)."""
        for level in levels:
            known = self._known.pop(level) if level in self._known else self._computed(level)
            self._known[level] = known  # the newest last
        rows = [self._known[level] for level in levels]
        for level in list(self._known)[: max(len(self._known) - self._most, 0)]:
            del self._known[level]
        if len(rows) == 1:
            return rows[0]
        times, modulations = zip(*rows, strict=True)
        return torch.cat(times), torch.cat(modulations)

    def forget(self) -> None:
        """For when the weights have changed."""
        self._known.clear()

    def _computed(self, level: float) -> TimeContext:
        return self._model.times(upload(torch.tensor([level], dtype=torch.float64), self._device))


def join_contexts(contexts: Sequence[TextContext]) -> TextContext:
    """One row after the other. Where all are the same prompt's, nothing is copied."""
    first, rows = contexts[0], len(contexts)
    if all(context is first for context in contexts):
        return first if rows == 1 else [(_repeated(k, rows), _repeated(v, rows), weights) for k, v, weights in first]
    tokens = max(context[0][0].shape[1] for context in contexts)
    weights = _joined_weights(contexts, tokens)
    return [
        (
            torch.cat([lengthened(k, tokens) for k, _, _ in layer]),
            torch.cat([lengthened(v, tokens) for _, v, _ in layer]),
            weights,
        )
        for layer in zip(*contexts, strict=True)
    ]


def _joined_weights(contexts: Sequence[TextContext], tokens: int) -> Tensor | None:
    firsts = [context[0] for context in contexts]
    if all(weights is None and k.shape[1] == tokens for k, _, weights in firsts):
        return None
    return torch.cat([lengthened_weights(weights, k.shape[1], tokens, k) for k, _, weights in firsts])


def _repeated(x: Tensor, rows: int) -> Tensor:
    return x.expand(rows, -1, -1, -1)


def sinusoid(position: Tensor, dim: int) -> Tensor:
    """Wan's sinusoidal embedding of (rows,) positions: cosines, then sines; (rows, dim) float32."""
    half = dim // 2
    frequencies = torch.pow(10000.0, -torch.arange(half, device=position.device, dtype=torch.float64) / half)
    angles = torch.outer(position.double(), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1))
