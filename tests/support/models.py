"""A causal Wan pipeline with random weights, small enough for unit tests."""

from __future__ import annotations

import torch

from pipelines.causal_wan.autoencoder import AutoencoderGeometry, StreamingAutoencoder, TinyCodec
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry, SamplerGeometry
from pipelines.causal_wan.intake import Rules
from pipelines.causal_wan.noise import NoiseGeometry
from pipelines.causal_wan.pipeline import CausalWanPipeline, Models
from pipelines.causal_wan.tiny_text import TextGeometry, TinyText, TinyTextEncoder
from streamgen.core import Params, PipelineSpec

DIT = DiTGeometry(
    latent_channels=8,
    cond_channels=8,
    patch=(1, 2, 2),
    dim=48,
    ffn_dim=96,
    heads=2,
    layers=2,
    freq_dim=32,
    text_dim=16,
    text_len=6,
    prediction="x0",
)
CACHE = CacheGeometry(window=4, sinks=1, sink_threshold=0.2)
DEFAULTS = Params(prompt="oil", width=64, height=64)


def random_pipeline(cache: CacheGeometry = CACHE, seed: int = 0, *, light: bool = False) -> CausalWanPipeline:
    """Float32 on the CPU; the same seed gives the same weights. light: whether it has a light codec too."""
    torch.manual_seed(seed)
    autoencoder = StreamingAutoencoder(AutoencoderGeometry(latent_channels=8, width=16, frame_width=8))
    dit = CausalWanModel(DIT)
    text = TinyTextEncoder(TextGeometry(buckets=64, dim=16, layers=1, heads=2, length=6), 3)
    lighter = StreamingAutoencoder(AutoencoderGeometry(latent_channels=8, width=8, frame_width=4))
    for model in (autoencoder, dit, text, lighter):
        model.eval().requires_grad_(False)
    models = Models(TinyCodec(autoencoder), dit, TinyText(text), light_codec=TinyCodec(lighter) if light else None)
    spec = PipelineSpec("random", 4, 1, 16, 256 * 256, 16.0, 0, DEFAULTS, light_vae=light)
    rules = Rules(cache, SamplerGeometry(), NoiseGeometry())
    return CausalWanPipeline(spec, models, rules, torch.device("cpu"), torch.float32)
