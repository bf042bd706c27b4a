"""Wan's VAE as a streaming codec: diffusers' AutoencoderKLWan, driven chunk by chunk.

A chunk's convolutions in time need the last input frames of the chunk before. Diffusers' encoder and decoder take
them as an argument; here they are a stream's state, so that the weights are shared and chunks of several streams go
through in one call.

    first chunk     1 frame  -> latent 0      the convolutions see zeros before it; no resampling in time
    each after it   4 frames -> next latent   state: a Slot per convolution, of the same shape ever after
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional as F

from pipelines.causal_wan import weights
from pipelines.causal_wan.codec_batch import SPACE, Size, check_frames, check_latents, gathered, parted
from pipelines.causal_wan.latent_scale import LatentScale
from pipelines.causal_wan.memory_format import lay_out_channels_last
from pipelines.causal_wan.parts import Half
from pipelines.causal_wan.wan_vae_geometry import Slot, WanVaeGeometry
from pipelines.causal_wan.wan_vae_layout import names_in


@dataclass(eq=False)
class WanCodecState:
    """One stream's place. Lists are empty and sizes None until the stream begins; tensors (1, C, frames, h, w)."""

    encoder: list[Tensor] = field(default_factory=list)
    decoder: list[Tensor] = field(default_factory=list)
    encoded: Size | None = None
    """Height and width of its frames, in pixels."""
    decoded: Size | None = None


class WanCodec:
    """Wan's VAE (parts.Codec): encodes to the posterior's mean, decodes to pictures in -1..1.

    raw_latents: whether the DiT is shown latents as they are, as StreamDiffusionV2's checkpoint expects, instead of
    normalised ones (see latent_scale). `decode` takes normalised latents either way.
    """

    def __init__(self, vae: AutoencoderKLWan, geometry: WanVaeGeometry, *, raw_latents: bool = False) -> None:
        some = next(vae.parameters())
        self.geometry = geometry
        self._vae, self._raw, self._dtype = vae, raw_latents, some.dtype
        self._scale = LatentScale.of(geometry.latents_mean, geometry.latents_std, some.device)
        self._slots = {"encoder": geometry.encoder_slots(), "decoder": geometry.decoder_slots()}

    @classmethod
    def from_state_dict(
        cls, tensors: Mapping[str, Tensor], geometry: WanVaeGeometry | None = None, *,
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, raw_latents: bool = False,
        name: str = "the Wan VAE",
    ) -> WanCodec:  # fmt: skip
        """The codec with these weights, in Wan's layout (Wan2.1_VAE.pth) or diffusers'.

        geometry: by default Wan 2.1's. name: of the weights, for errors.
        Raises WeightsError that names what is missing, unknown or of another shape.
        """
        geometry = geometry or WanVaeGeometry()
        with torch.device("meta"):
            vae = AutoencoderKLWan(**geometry.config())
        expected = vae.state_dict()
        names = names_in(tensors, expected, geometry.num_res_blocks)
        weights.check_fit(
            name,
            {key: tuple(tensor.shape) for key, tensor in tensors.items()},
            {names[key]: tuple(tensor.shape) for key, tensor in expected.items()},
        )
        weights.fill(vae, {key: tensors[names[key]].to(device, dtype) for key in expected})
        vae.eval()
        if dtype.itemsize == 2:
            lay_out_channels_last(vae)
        return cls(vae, geometry, raw_latents=raw_latents)

    @property
    def latent_channels(self) -> int:
        return self.geometry.z_dim

    def open(self) -> WanCodecState:
        return WanCodecState()

    def encode(self, states: Sequence[WanCodecState], frames: Tensor) -> Tensor:
        first = check_frames([state.encoded for state in states], frames)
        x = frames.to(self._dtype).transpose(1, 2)
        features = self._run("encoder", states, x, first, frames.shape[3:])
        mean = self._vae.quant_conv(features)[:, : self.latent_channels]
        for state in states:
            state.encoded = (frames.shape[3], frames.shape[4])
        return mean.contiguous() if self._raw else self._scale.normalised(mean)

    def decode(self, states: Sequence[WanCodecState], latents: Tensor) -> Tensor:
        first = check_latents([state.decoded for state in states], latents, self.latent_channels)
        size = (latents.shape[3] * SPACE, latents.shape[4] * SPACE)
        x = self._vae.post_quant_conv(self._scale.raw(latents).to(self._dtype))
        pictures = self._run("decoder", states, x, first, size)
        for state in states:
            state.decoded = size
        return pictures.clamp_(-1, 1).transpose(1, 2)

    def part_with(self, half: Half) -> None:
        modules = {"encoder": self._vae.encoder, "decoder": self._vae.decoder}
        modules[half].to("meta")

    def bytes_per_state(self, height: int, width: int, dtype: torch.dtype) -> int:
        """Bytes that a stream of frames of this size, in pixels, keeps while it runs."""
        return self.encoder_bytes(height, width, dtype) + self.decoder_bytes(height, width, dtype)

    def encoder_bytes(self, height: int, width: int, dtype: torch.dtype) -> int:
        """The encoder's part of `bytes_per_state`."""
        return self.geometry.encoder_bytes(height, width, dtype)

    def decoder_bytes(self, height: int, width: int, dtype: torch.dtype) -> int:
        """The decoder's part of `bytes_per_state`."""
        return self.geometry.decoder_bytes(height, width, dtype)

    def _run(self, half: str, states: Sequence[WanCodecState], x: Tensor, first: bool, size: Sequence[int]) -> Tensor:
        """`x` (B, C, T, h, w) through the encoder or decoder, whose caches are taken from the states and put back."""
        slots = self._slots[half]
        caches: list[Any] = [None] * len(slots) if first else gathered([getattr(state, half) for state in states])
        out = getattr(self._vae, half)(x, feat_cache=caches, feat_idx=[0])
        if first:
            caches = [_settled(cache, slot, x, size) for cache, slot in zip(caches, slots, strict=True)]
        for state, own in zip(states, parted(caches, len(states)), strict=True):
            setattr(state, half, own)
        return out


def _settled(cache: Tensor | str, slot: Slot, like: Tensor, size: Sequence[int]) -> Tensor:
    """What a convolution keeps after the first chunk, with zeros for the frames before it.

    The modules would fill up with zeros at the second chunk; filled up at once, every later chunk has the same shapes,
    and streams of any age share a batch. A string stands for a convolution that the first chunk passed by.
    """
    if isinstance(cache, str):
        shape = (len(like), slot.channels, slot.frames, size[0] // slot.divisor, size[1] // slot.divisor)
        return like.new_zeros(shape)
    return F.pad(cache, (0, 0, 0, 0, slot.frames - cache.shape[2], 0))
