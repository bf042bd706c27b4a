"""Codecs with random weights, small enough for unit tests, and the weights to build them from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from pipelines.causal_wan.parts import Codec
from pipelines.causal_wan.taehv import Taehv, TaehvCodec
from pipelines.causal_wan.taehv_geometry import TaehvGeometry
from pipelines.causal_wan.wan_vae import WanCodec
from pipelines.causal_wan.wan_vae_geometry import WanVaeGeometry

VAE = WanVaeGeometry(
    base_dim=6,
    z_dim=4,
    dim_mult=(1, 2, 4, 4),
    num_res_blocks=1,
    latents_mean=(0.3, -0.2, 0.0, 0.1),
    latents_std=(0.5, 2.0, 1.0, 1.5),
)
TAEHV = TaehvGeometry(latent_channels=4, encoder_width=6, decoder_widths=(10, 8, 6, 4))


def random_vae(geometry: WanVaeGeometry = VAE, seed: int = 0) -> AutoencoderKLWan:
    """Diffusers' module; pictures stay within -1..1, so that clamping hides nothing."""
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(**geometry.config()).eval().requires_grad_(False)
    for name, parameter in vae.named_parameters():
        if name.endswith("gamma"):
            parameter.uniform_(0.5, 1.5)
    vae.decoder.conv_out.weight.mul_(0.3)
    return vae


def random_taehv(geometry: TaehvGeometry = TAEHV, seed: int = 0) -> dict[str, Tensor]:
    """Weights under the published names; pictures stay within 0..1, so that clamping hides nothing."""
    torch.manual_seed(seed)
    model = Taehv(geometry).requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                module.bias.normal_(std=0.1)
    last = model.decoder[-1]
    last.weight.mul_(0.3)
    last.bias.fill_(0.5)
    return dict(model.state_dict())


def wan_codec(dtype: torch.dtype = torch.float32, *, raw_latents: bool = False) -> WanCodec:
    return WanCodec.from_state_dict(random_vae().state_dict(), VAE, dtype=dtype, raw_latents=raw_latents)


def taehv_codec(dtype: torch.dtype = torch.float32) -> TaehvCodec:
    return TaehvCodec.from_state_dict(random_taehv(), TAEHV, dtype=dtype)


def clip(frames: int, seed: int = 0, *, streams: int = 1, height: int = 32, width: int = 48) -> Tensor:
    """(streams, frames, 3, height, width) in -1..1, random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(streams, frames, 3, height, width, generator=generator) * 2 - 1


def chunks(frames: Tensor) -> list[Tensor]:
    """A clip of 1 + 4k frames as a codec takes it."""
    return [frames[:, :1], *frames[:, 1:].split(4, dim=1)]


def encoded(codec: Codec, frames: Tensor, states: Sequence[Any] | None = None) -> Tensor:
    """All latents (B, C, 1 + k, h, w) of clips of 1 + 4k frames, chunk by chunk."""
    states = [codec.open() for _ in frames] if states is None else states
    return torch.cat([codec.encode(states, chunk) for chunk in chunks(frames)], dim=2)


def decoded(codec: Codec, latents: Tensor, states: Sequence[Any] | None = None) -> Tensor:
    """All pictures (B, 1 + 4k, 3, H, W) of latents (B, C, 1 + k, h, w), one by one."""
    states = [codec.open() for _ in latents] if states is None else states
    return torch.cat([codec.decode(states, latent) for latent in latents.split(1, dim=2)], dim=1)


def held_bytes(state: Any) -> int:
    """Memory that a codec's state keeps alive, whole storages counted once."""
    parts = state if isinstance(state, tuple) else (state,)
    values = [getattr(part, field.name) for part in parts for field in fields(part)]
    tensors = [tensor for value in values if isinstance(value, list) for tensor in value]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
