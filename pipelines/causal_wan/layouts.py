"""From the layout of Wan's own DiT (Wan2.1, `wan/modules/model.py`) to ours: names, joined projections, other order.

Wan turns neighbouring channels (2i, 2i + 1) of a head as a pair, we turn (i, i + D/2): so the rows of the projections
to self-attention's queries and keys, and the weights of their norms, come in another order within each head. Attention
itself does not see the difference. Everything is linear in the tensors, so differences of weights map as weights do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipelines.causal_wan.geometry import DiTGeometry

_OUTSIDE = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "text_embedding.0",
    "text_embedding.2": "text_embedding.2",
    "time_embedding.0": "time_embedding.0",
    "time_embedding.2": "time_embedding.2",
    "time_projection.1": "time_projection.1",
    "head.head": "head.linear",
}

_IN_BLOCK = {
    "self_attn.o": "self_attention.out",
    "cross_attn.q": "cross_attention.q",
    "cross_attn.o": "cross_attention.out",
    "norm3": "norm3",
    "ffn.0": "ffn.0",
    "ffn.2": "ffn.2",
}


def from_wan(
    state: Mapping[str, Tensor], geometry: DiTGeometry, layers: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """The tensors of our CausalWanModel from those of Wan's, each of which is asked for once.

    layers: of which blocks; of all of them if None.

    Raises KeyError for one that is missing; whether they fit the geometry is for the caller to see to before.
    """
    ours = {f"{new}.{kind}": state[f"{old}.{kind}"] for old, new in _OUTSIDE.items() for kind in ("weight", "bias")}
    ours["head.modulation"] = state["head.modulation"].squeeze(0)
    for layer in range(geometry.layers) if layers is None else layers:
        ours |= _block(state, f"blocks.{layer}.", geometry)
    return ours


def _block(state: Mapping[str, Tensor], prefix: str, g: DiTGeometry) -> dict[str, Tensor]:
    ours = {
        f"{new}.{kind}": state[f"{prefix}{old}.{kind}"] for old, new in _IN_BLOCK.items() for kind in ("weight", "bias")
    }
    for kind in ("weight", "bias"):
        q, k, v = (state[f"{prefix}self_attn.{projection}.{kind}"] for projection in "qkv")
        ours[f"self_attention.qkv.{kind}"] = torch.cat([_halves(q, g), _halves(k, g), v])
        ours[f"cross_attention.kv.{kind}"] = torch.cat(
            [state[f"{prefix}cross_attn.{projection}.{kind}"] for projection in "kv"]
        )
    for norm in ("norm_q", "norm_k"):
        ours[f"self_attention.{norm}.weight"] = _halves(state[f"{prefix}self_attn.{norm}.weight"], g)
        ours[f"cross_attention.{norm}.weight"] = state[f"{prefix}cross_attn.{norm}.weight"]
    ours["modulation"] = state[f"{prefix}modulation"].squeeze(0)
    return {prefix + name: tensor for name, tensor in ours.items()}


def _halves(rows: Tensor, g: DiTGeometry) -> Tensor:
    """Rows (dim, ...) of heads' channels, from pairs of neighbours to a half of firsts and a half of seconds."""
    return rows.unflatten(0, (g.heads, g.head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
