"""Device memory of a causal Wan preset, by arithmetic from its settings: nothing is built, no torch is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipelines.causal_wan.codec_choice import HALVES, CodecChoice
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry
from pipelines.causal_wan.wan_vae_geometry import WanVaeGeometry
from streamgen.core import Params

HALF = 2
"""Bytes of a number in the format that weights and states have on GPUs (bfloat16)."""

SPACE = 8


class CodecSize(NamedTuple):
    """Numbers of a codec's halves."""

    encoder: int
    decoder: int


_CODEC_PARAMETERS = {"taehv": CodecSize(1_470_000, 9_840_000), "wan_vae": CodecSize(53_600_000, 73_300_000)}
"""By the role of the weight file."""
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

    def of(self, sessions: int) -> int:
        """With so many streams."""
        return self.weights + self.prompt + sessions * self.session


@dataclass(frozen=True)
class Shares:
    """A preset's memory by what it is for: where several devices share the blocks, each holds its own part."""

    layers: int
    block: Memory
    """Each of the DiT's blocks: its weights, and of a stream its part of the caches and of the prompt."""
    first: Memory
    """What stands before the blocks: text encoder, encoder, embeddings."""
    last: Memory
    """What stands behind them: the head, the decoder."""

    def part(self, blocks: int, *, first: bool, last: bool) -> Memory:
        """Of a device that holds so many blocks, and what stands before the first and behind the last of all."""
        parts = [self.block] * blocks + [self.first] * first + [self.last] * last
        return Memory(
            sum(part.weights for part in parts), sum(part.session for part in parts), sum(part.prompt for part in parts)
        )


def memory_of(settings: Mapping[str, Any], params: Params, itemsize: int = HALF) -> Memory:
    """What a preset takes with these settings, and a stream of it with these parameters; nothing without a DiT.

    Raises PresetError for codecs that cannot be run.
    """
    if "dit" not in settings:
        return Memory(0, 0, 0)
    shares = shares_of(settings, params, itemsize)
    return shares.part(shares.layers, first=True, last=True)


def shares_of(settings: Mapping[str, Any], params: Params, itemsize: int = HALF) -> Shares:
    """The same for a preset with a DiT, by its parts."""
    dit, cache = DiTGeometry.from_settings(settings["dit"]), CacheGeometry(**settings["cache"])
    pixels = params.width * params.height
    block = cache_bytes(dit, cache, pixels, params.steps, itemsize) + context_bytes(dit, itemsize)
    codec, kept = _codec_parameters(settings), _codec_kept(settings, params.width, params.height)
    offloaded = settings.get("text", {}).get("offload")
    text = 0 if offloaded is None else _UMT5_LAYERS_PARAMETERS * HALF  # the tiny preset's encoder is a tiny one
    before = itemsize * (_embedding_parameters(dit) + codec.encoder) + (0 if offloaded else text)
    prompt = text // _UMT5_LAYERS if offloaded else 0  # one layer is there at a time
    return Shares(
        dit.layers,
        block=Memory(itemsize * _block_parameters(dit), block // dit.layers, 0),
        first=Memory(before, itemsize * kept.encoder, prompt),
        last=Memory(itemsize * (_head_parameters(dit) + codec.decoder), itemsize * kept.decoder, 0),
    )


def dit_parameters(g: DiTGeometry) -> int:
    """Numbers in the DiT's weights."""
    return _embedding_parameters(g) + g.layers * _block_parameters(g) + _head_parameters(g)


def _block_parameters(g: DiTGeometry) -> int:
    d = g.dim
    attentions = 2 * (4 * _linear(d, d) + 2 * d)
    return attentions + _linear(d, g.ffn_dim) + _linear(g.ffn_dim, d) + 2 * d + 6 * d


def _embedding_parameters(g: DiTGeometry) -> int:
    d, patch = g.dim, math.prod(g.patch)
    latents = _linear((g.latent_channels + g.cond_channels) * patch, d)
    return latents + _linear(g.text_dim, d) + _linear(g.freq_dim, d) + 2 * _linear(d, d) + _linear(d, 6 * d)


def _head_parameters(g: DiTGeometry) -> int:
    return _linear(g.dim, math.prod(g.patch) * g.latent_channels) + 2 * g.dim


def _linear(columns: int, rows: int) -> int:
    return columns * rows + rows


def cache_bytes(dit: DiTGeometry, cache: CacheGeometry, pixels: int, steps: int, itemsize: int = HALF) -> int:
    """A stream's rolling KV caches: keys and values of its window, for every step that has a cache of its own."""
    tokens = pixels // (SPACE * dit.patch[1] * SPACE * dit.patch[2])
    return cache.slots(steps) * cache.slot_bytes(dit, tokens, itemsize)


def context_bytes(dit: DiTGeometry, itemsize: int = HALF) -> int:
    """A stream's prompt: cross-attention's keys and values in every layer."""
    return 2 * dit.layers * dit.text_len * dit.dim * itemsize


def codec_bytes(settings: Mapping[str, Any], width: int, height: int, itemsize: int = HALF) -> int:
    """What a stream's encoder and decoder carry from chunk to chunk, at a size in pixels; the most of any codec."""
    return sum(_codec_kept(settings, width, height)) * itemsize


def _codec_kept(settings: Mapping[str, Any], width: int, height: int) -> CodecSize:
    if "codec" not in settings:  # the tiny preset's own
        half = int(settings["autoencoder"]["width"]) * (width * height // SPACE**2)
        return CodecSize(half, half)
    names = CodecChoice.from_settings(settings).names
    return max((_codec_elements(name, width, height) for name in names), key=sum)


def _codec_elements(name: str, width: int, height: int) -> CodecSize:
    """Numbers that the two halves of a codec of Wan's latents keep of a stream."""
    encoder, decoder = HALVES[name]
    kept = {"taehv": _taehv_elements, "wan_vae": _wan_vae_elements}
    return CodecSize(kept[encoder]("encoder", width, height), kept[decoder]("decoder", width, height))


def _taehv_elements(half: str, width: int, height: int) -> int:
    """One past frame of every memory block, three at each size: channels x share of the pixels."""
    shares = 64 // 4 + 64 // 16 + 64 // 64 if half == "encoder" else 256 // 64 + 128 // 16 + 64 // 4
    return 3 * shares * width * height


def _wan_vae_elements(half: str, width: int, height: int) -> int:
    """Numbers that a half of Wan's VAE keeps of a stream: past frames of every convolution in time."""
    geometry = WanVaeGeometry()
    slots = geometry.encoder_slots() if half == "encoder" else geometry.decoder_slots()
    return sum(slot.elements(height, width) for slot in slots)


def _codec_parameters(settings: Mapping[str, Any]) -> CodecSize:
    if "codec" not in settings:  # the tiny preset's own, which is tiny
        return CodecSize(0, 0)
    sizes = [_CODEC_PARAMETERS[role] for role in CodecChoice.from_settings(settings).roles]
    return CodecSize(sum(size.encoder for size in sizes), sum(size.decoder for size in sizes))
