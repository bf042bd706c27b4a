"""Our DiT against Wan's own, as diffusers has it: the same weights, a whole clip without a cache of what was before."""

from __future__ import annotations

import warnings

import pytest
import torch

from pipelines.causal_wan.cache import RollingKVCache
from pipelines.causal_wan.checkpoints import to_diffusers, wan_shapes
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry
from pipelines.causal_wan.layouts import from_wan
from tests.support.published import randomize

CPU = torch.device("cpu")


def diffusers_model(g: DiTGeometry) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("diffusers.models.transformers.transformer_wan", reason="needs diffusers")
    model = transformers.WanTransformer3DModel(
        patch_size=g.patch, num_attention_heads=g.heads, attention_head_dim=g.head_dim,
        in_channels=g.latent_channels + g.cond_channels, out_channels=g.latent_channels, text_dim=g.text_dim,
        freq_dim=g.freq_dim, ffn_dim=g.ffn_dim, num_layers=g.layers, eps=g.eps,
    )  # fmt: skip
    randomize(model, 3)
    return model.eval()


@pytest.mark.parametrize(
    ("heads", "head_dim", "layers", "cond", "frames", "grid"),
    [(2, 128, 2, 0, 1, (2, 3)), (1, 128, 3, 0, 5, (3, 2)), (4, 24, 2, 6, 3, (2, 2)), (3, 40, 1, 0, 2, (1, 4))],
)
def test_it_is_wans(heads: int, head_dim: int, layers: int, cond: int, frames: int, grid: tuple[int, int]) -> None:
    g = DiTGeometry(
        latent_channels=4, cond_channels=cond, patch=(1, 2, 2), dim=heads * head_dim, ffn_dim=96, heads=heads,
        layers=layers, freq_dim=32, text_dim=20, text_len=7, prediction="flow",
    )  # fmt: skip
    theirs = diffusers_model(g)
    state = theirs.state_dict()
    ours = CausalWanModel(g)
    ours.load_state_dict(from_wan({name: state[to_diffusers(name)] for name in wan_shapes(g)}, g))
    x = torch.randn(2, 4 + cond, frames, 2 * grid[0], 2 * grid[1])
    text, timestep = torch.randn(2, 7, 20), torch.tensor([700.0, 31.0])
    cache = RollingKVCache(g, CacheGeometry(frames, 0, -1.0), grid, CPU, torch.float32)
    with torch.inference_mode():
        want = theirs(hidden_states=x, timestep=timestep, encoder_hidden_states=text, return_dict=False)[0]
        latent, condition = x[:, :4], x[:, 4:] if cond else None
        step = cache.begin([cache.take(), cache.take()], frames=frames)
        got = ours(latent, condition, timestep / 1000, ours.context(text), step)
    assert float((got - want).norm() / want.norm()) < 1e-4
