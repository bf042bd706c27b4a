"""Device memory of a causal Wan preset, by arithmetic from its settings: nothing is built, no torch is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.causal_wan.codec_choice import HALVES, CodecChoice
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
    """Held as long as the preset runs: of the light codec too where there is one."""
    session: int
    """Held by each stream of the preset's default size and steps, with the codec that keeps more."""
    prompt: int
    """Held in addition while a prompt is encoded."""


def memory_of(settings: Mapping[str, Any], params: Params, itemsize: int = HALF) -> Memory:
    """What a preset takes with these settings, and a stream of it with these parameters; nothing without a DiT.

    Raises PresetError for codecs that cannot be run.
    """
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
    """What a stream's encoder and decoder carry from chunk to chunk, at a size in pixels; the most of any codec."""
    if "codec" not in settings:  # the tiny preset's own
        return 2 * int(settings["autoencoder"]["width"]) * (width * height // SPACE**2) * itemsize
    names = CodecChoice.from_settings(settings).names
    return max(_codec_elements(name, width, height) for name in names) * itemsize


def _codec_elements(name: str, width: int, height: int) -> int:
    """Numbers that the two halves of a codec of Wan's latents keep of a stream."""
    encoder, decoder = HALVES[name]
    kept = {"taehv": _taehv_elements, "wan_vae": _wan_vae_elements}
    return kept[encoder]("encoder", width, height) + kept[decoder]("decoder", width, height)


def _taehv_elements(half: str, width: int, height: int) -> int:
    """One past frame of every memory block, three at each size: channels x share of the pixels."""
    shares = 64 // 4 + 64 // 16 + 64 // 64 if half == "encoder" else 256 // 64 + 128 // 16 + 64 // 4
    return 3 * shares * width * height


def _wan_vae_elements(half: str, width: int, height: int) -> int:
    """Numbers that a half of Wan's VAE keeps of a stream: past frames of every convolution in time."""
    geometry = WanVaeGeometry()
    slots = geometry.encoder_slots() if half == "encoder" else geometry.decoder_slots()
    return sum(slot.elements(height, width) for slot in slots)


def _codec_parameters(settings: Mapping[str, Any]) -> int:
    if "codec" not in settings:  # the tiny preset's own, which is tiny
        return 0
    sizes = {"taehv": _TAEHV_PARAMETERS, "wan_vae": _WAN_VAE_PARAMETERS}
    return sum(sizes[role] for role in CodecChoice.from_settings(settings).roles)
