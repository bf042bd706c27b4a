"""Small checkpoints with the names that published ones have, written out here rather than taken from the sources."""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.causal_wan.geometry import DiTGeometry

GEOMETRY = DiTGeometry(
    latent_channels=4,
    cond_channels=0,
    patch=(1, 2, 2),
    dim=24,
    ffn_dim=40,
    heads=2,
    layers=2,
    freq_dim=16,
    text_dim=12,
    text_len=6,
    prediction="flow",
)

WAN_OUTSIDE = {
    "patch_embedding.weight": (24, 4, 1, 2, 2), "patch_embedding.bias": (24,),
    "text_embedding.0.weight": (24, 12), "text_embedding.0.bias": (24,),
    "text_embedding.2.weight": (24, 24), "text_embedding.2.bias": (24,),
    "time_embedding.0.weight": (24, 16), "time_embedding.0.bias": (24,),
    "time_embedding.2.weight": (24, 24), "time_embedding.2.bias": (24,),
    "time_projection.1.weight": (144, 24), "time_projection.1.bias": (144,),
    "head.head.weight": (16, 24), "head.head.bias": (16,), "head.modulation": (1, 2, 24),
}  # fmt: skip

WAN_BLOCK = {
    "self_attn.q.weight": (24, 24), "self_attn.q.bias": (24,),
    "self_attn.k.weight": (24, 24), "self_attn.k.bias": (24,),
    "self_attn.v.weight": (24, 24), "self_attn.v.bias": (24,),
    "self_attn.o.weight": (24, 24), "self_attn.o.bias": (24,),
    "self_attn.norm_q.weight": (24,), "self_attn.norm_k.weight": (24,),
    "norm3.weight": (24,), "norm3.bias": (24,),
    "cross_attn.q.weight": (24, 24), "cross_attn.q.bias": (24,),
    "cross_attn.k.weight": (24, 24), "cross_attn.k.bias": (24,),
    "cross_attn.v.weight": (24, 24), "cross_attn.v.bias": (24,),
    "cross_attn.o.weight": (24, 24), "cross_attn.o.bias": (24,),
    "cross_attn.norm_q.weight": (24,), "cross_attn.norm_k.weight": (24,),
    "ffn.0.weight": (40, 24), "ffn.0.bias": (40,), "ffn.2.weight": (24, 40), "ffn.2.bias": (24,),
    "modulation": (1, 6, 24),
}  # fmt: skip


def wan_state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of Wan-AI/Wan2.1-T2V-1.3B."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {**WAN_OUTSIDE, **{f"blocks.{i}.{name}": shape for i in range(2) for name, shape in WAN_BLOCK.items()}}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
