"""A preset of Wan's that is small enough for unit tests, with files in the layout of the published ones."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch

from pipelines.causal_wan.checkpoints import wan_shapes
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.taehv_geometry import TaehvGeometry
from pipelines.causal_wan.wan_vae_geometry import WanVaeGeometry
from pipelines.causal_wan.wan_vae_layout import original_name
from pipelines.files import files_of
from pipelines.registry import PRESETS, Preset
from tests.support.codecs import random_taehv, random_vae
from tests.support.umt5 import make_tokenizer, umt5_state

SMALL = DiTGeometry(
    latent_channels=16, cond_channels=0, patch=(1, 2, 2), dim=24, ffn_dim=40, heads=2, layers=2, freq_dim=16,
    text_dim=16, text_len=12, prediction="flow",
)  # fmt: skip

SMALL_VAE = WanVaeGeometry(base_dim=8)
SMALL_TAEHV = TaehvGeometry(encoder_width=16, decoder_widths=(64, 32, 16, 16))


def small_wan_preset(folder: Path) -> Preset:
    """wan-1.3b with a small DiT and a small text encoder, its files where `models pull` would put them in `folder`.

    The file of Wan's VAE, which the preset's codec does not read, is none.
    """
    real = PRESETS["wan-1.3b"]
    places = {file.role: file.place(folder) for file in files_of(real)}
    for place in places.values():
        place.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    dit = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in wan_shapes(SMALL).items()}
    torch.save({"generator_ema": {f"model.{name}": tensor for name, tensor in dit.items()}}, places["dit"])
    torch.save(umt5_state(), places["text_encoder"])
    make_tokenizer(folder).joinpath("tokenizer.json").rename(places["tokenizer"])
    torch.save(random_taehv(TaehvGeometry()), places["taehv"])
    places["wan_vae"].write_bytes(b"not needed with taehv")
    return replace(
        real, settings={**real.settings, "dit": asdict(SMALL)}, defaults=replace(real.defaults, width=64, height=64)
    )


def put_small_codecs(preset: Preset, folder: Path) -> None:
    """Writes codecs of SMALL_VAE's and SMALL_TAEHV's sizes, as published ones are named, in place of the preset's."""
    places = {file.role: file.place(folder) for file in files_of(preset)}
    vae = random_vae(SMALL_VAE).state_dict()
    torch.save({original_name(key, SMALL_VAE.num_res_blocks): x for key, x in vae.items()}, places["wan_vae"])
    torch.save(random_taehv(SMALL_TAEHV), places["taehv"])
