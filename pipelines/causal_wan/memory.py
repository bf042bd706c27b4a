"""Device memory of a causal Wan preset, by arithmetic from its settings: nothing is built, no torch is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry
from pipelines.causal_wan.wan_vae_geometry import WanVaeGeometry
from streamgen.core import Params

HALF = 2
"""Bytes of a number in the format that weights and states have on GPUs (bfloat16)."""

SPACE = 8

_TAEHV_PARAMETERS = 11_300_000
_WAN_VAE_PARAMETERS = 126_900_000
_UMT5_LAYERS_PARAMETERS = 4_630_000_000
"""UMT5-XXL's layers without its table of words, which never leaves the host's memory."""
_UMT5_LAYERS = 24


@dataclass(frozen=True)
class Memory:
    """Bytes on the device."""

    weights: int
    """Held as long as the preset runs."""
    session: int
    """Held by each stream of the preset's default size and steps."""
    prompt: int
    """Held in addition while a prompt is encoded."""


def memory_of(settings: Mapping[str, Any], params: Params, itemsize: int = HALF) -> Memory:
    """What a preset takes with these settings, and a stream of it with these parameters; nothing without a DiT."""
    if "dit" not in settings:
        return Memory(0, 0, 0)
    dit, cache = DiTGeometry.from_settings(settings["dit"]), CacheGeometry(**settings["cache"])
    pixels = params.width * params.height
    session = cache_bytes(dit, cache, pixels, params.steps, itemsize) + context_bytes(dit, itemsize)
    offloaded = settings.get("text", {}).get("offload")
    text = 0 if offloaded is None else _UMT5_LAYERS_PARAMETERS * HALF  # the tiny preset's encoder is a tiny one
    return Memory(
        weights=itemsize * (dit_parameters(dit) + _codec_parameters(settings)) + (0 if offloaded else text),
        session=session + codec_bytes(settings, params.width, params.height, itemsize),
        prompt=text // _UMT5_LAYERS if offloaded else 0,  # one layer is there at a time
    )


def dit_parameters(g: DiTGeometry) -> int:
    """Numbers in the DiT's weights."""
    d, patch = g.dim, g.patch[0] * g.patch[1] * g.patch[2]

    def linear(columns: int, rows: int) -> int:
        return columns * rows + rows

    attentions = 2 * (4 * linear(d, d) + 2 * d)
    block = attentions + linear(d, g.ffn_dim) + linear(g.ffn_dim, d) + 2 * d + 6 * d
    embeddings = (
        linear((g.latent_channels + g.cond_channels) * patch, d)
        + linear(g.text_dim, d)
        + linear(g.freq_dim, d)
        + 2 * linear(d, d)
        + linear(d, 6 * d)
    )
    return g.layers * block + embeddings + linear(d, patch * g.latent_channels) + 2 * d


def cache_bytes(dit: DiTGeometry, cache: CacheGeometry, pixels: int, steps: int, itemsize: int = HALF) -> int:
    """A stream's rolling KV caches: keys and values of its window, for every step that has a cache of its own."""
    tokens = pixels // (SPACE * dit.patch[1] * SPACE * dit.patch[2])
    return cache.slots(steps) * cache.slot_bytes(dit, tokens, itemsize)


def context_bytes(dit: DiTGeometry, itemsize: int = HALF) -> int:
    """A stream's prompt: cross-attention's keys and values in every layer."""
    return 2 * dit.layers * dit.text_len * dit.dim * itemsize


def codec_bytes(settings: Mapping[str, Any], width: int, height: int, itemsize: int = HALF) -> int:
    """What a stream's encoder and decoder carry from chunk to chunk, at a size in pixels."""
    pixels = width * height
    # TAEHV keeps one past frame of every memory block, three at each size: channels x share of the pixels
    taehv_encoder = 3 * (64 // 4 + 64 // 16 + 64 // 64) * pixels
    taehv_decoder = 3 * (256 // 64 + 128 // 16 + 64 // 4) * pixels
    match settings.get("codec", "tiny"):
        case "taehv":
            return (taehv_encoder + taehv_decoder) * itemsize
        case "paired":
            return _wan_vae_elements("encoder", width, height) * itemsize + taehv_decoder * itemsize
        case "wan":
            halves = [_wan_vae_elements(half, width, height) for half in ("encoder", "decoder")]
            return sum(halves) * itemsize
        case _:
            return 2 * int(settings["autoencoder"]["width"]) * (pixels // SPACE**2) * itemsize


def _wan_vae_elements(half: str, width: int, height: int) -> int:
    """Numbers that a half of Wan's VAE keeps of a stream: past frames of every convolution in time."""
    geometry = WanVaeGeometry()
    slots = geometry.encoder_slots() if half == "encoder" else geometry.decoder_slots()
    return sum(slot.elements(height, width) for slot in slots)


def _codec_parameters(settings: Mapping[str, Any]) -> int:
    taehv, wan = _TAEHV_PARAMETERS, _WAN_VAE_PARAMETERS
    return {"taehv": taehv, "wan": wan, "paired": taehv + wan}.get(settings.get("codec", "tiny"), 0)
