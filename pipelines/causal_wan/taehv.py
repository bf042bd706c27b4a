"""TAEHV for Wan 2.1 (`taew2_1`) as a streaming codec: a small autoencoder for the latents of Wan's VAE.

The architecture and the names of weights are those of github.com/madebyollin/taehv: convolutions frame by frame, and
memory blocks that see the frame before. What they saw last is a stream's state; every frame is encoded once and
every latent decoded once.

    first chunk    frame 0, four times over -> latent 0 -> 4 pictures, of which the last is frame 0's
    each after it  4 frames                 -> latent   -> 4 pictures

The published encoder was trained to give latent i (of Wan's frames 4i-3 to 4i) when it has seen frames up to 4i+3. A
live stream does not wait for them, so this encoder's latents show the scene up to 3 frames earlier than those of
Wan's encoder. Where that matters, or the encoder's quality, pair Wan's encoder with this decoder (see paired_codec),
as StreamDiffusionV2 does; the decoder has no such delay.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipelines.causal_wan import weights
from pipelines.causal_wan.codec_batch import SPACE, Size, check_frames, check_latents, gathered, parted
from pipelines.causal_wan.geometry import CHUNK
from pipelines.causal_wan.latent_scale import LatentScale
from pipelines.causal_wan.memory_format import lay_out_channels_last
from pipelines.causal_wan.parts import Half
from pipelines.causal_wan.taehv_geometry import DEPTH, TaehvGeometry
from pipelines.causal_wan.taehv_layers import Grow, Memory, Mix, Shrink, SoftClamp
from pipelines.causal_wan.wan_vae_geometry import WAN_DEVIATION, WAN_MEAN


class Taehv(nn.Module):
    """The weights as the published file names them; `TaehvCodec` runs them."""

    def __init__(self, geometry: TaehvGeometry) -> None:
        super().__init__()
        latent, wide = geometry.latent_channels, geometry.encoder_width
        encoder = [_conv(3, wide), nn.ReLU()]
        for stride in (2, 2, 1):
            encoder += [Mix(stride * wide, wide), _conv(wide, wide, stride=2, bias=False), *_memories(wide)]
        widths = geometry.decoder_widths
        decoder = [SoftClamp(), _conv(latent, widths[0]), nn.ReLU()]
        for level, stride in enumerate((1, 2, 2)):
            here, following = widths[level : level + 2]
            doubling = nn.Upsample(scale_factor=2)
            decoder += [*_memories(here), doubling, Mix(here, stride * here), _conv(here, following, bias=False)]
        self.encoder = nn.Sequential(*encoder, _conv(wide, latent))
        self.decoder = nn.Sequential(*decoder, nn.ReLU(), _conv(widths[-1], 3))


@dataclass(eq=False)
class TaehvState:
    """One stream's place. Lists are empty and sizes None until the stream begins; tensors (1, C, h, w)."""

    encoder: list[Tensor] = field(default_factory=list)
    """The frame that each memory block saw last."""
    decoder: list[Tensor] = field(default_factory=list)
    encoded: Size | None = None
    """Height and width of its frames, in pixels."""
    decoded: Size | None = None


class TaehvCodec:
    """TAEHV (parts.Codec) with Wan's latents.

    raw_latents: whether the DiT is shown latents in the scale of Wan's VAE, as StreamDiffusionV2's checkpoint expects,
    instead of normalised ones, which are TAEHV's own (see latent_scale). `decode` takes normalised ones either way.
    """

    def __init__(
        self, model: Taehv, geometry: TaehvGeometry, dtype: torch.dtype = torch.float32, *, raw_latents: bool = False
    ) -> None:
        self.geometry = geometry
        self._raw, self._dtype = raw_latents, dtype
        self._scale = LatentScale.of(WAN_MEAN, WAN_DEVIATION, next(model.parameters()).device)
        self._encoder, self._decoder = _joined(model.encoder), _joined(model.decoder)
        self._decoder[-1] = _signed(model.decoder[-1])
        for half in (self._encoder, self._decoder):
            half.to(dtype)
            lay_out_channels_last(half)

    @classmethod
    def from_state_dict(
        cls, tensors: Mapping[str, Tensor], geometry: TaehvGeometry | None = None, *,
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, raw_latents: bool = False,
        name: str = "TAEHV",
    ) -> TaehvCodec:  # fmt: skip
        """The codec with these weights, named as in `taew2_1.pth` or `taew2_1.safetensors`.

        geometry: by default taew2_1's. name: of the weights, for errors.
        Raises WeightsError that names what is missing, unknown or of another shape.
        """
        geometry = geometry or TaehvGeometry()
        with torch.device("meta"):
            model = Taehv(geometry)
        weights.check_fit(
            name,
            {key: tuple(tensor.shape) for key, tensor in tensors.items()},
            {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()},
        )
        weights.fill(model, {key: tensor.to(device, torch.float32) for key, tensor in tensors.items()})
        return cls(model, geometry, dtype, raw_latents=raw_latents)

    @property
    def latent_channels(self) -> int:
        return self.geometry.latent_channels

    def open(self) -> TaehvState:
        return TaehvState()

    def encode(self, states: Sequence[TaehvState], frames: Tensor) -> Tensor:
        first = check_frames([state.encoded for state in states], frames)
        x = frames.float().add(1).div_(2).to(self._dtype).expand(-1, CHUNK, -1, -1, -1)
        past = [] if first else gathered([state.encoder for state in states])
        x, carried = _run(self._encoder, x, past)
        for state, own in zip(states, parted(carried, len(states)), strict=True):
            state.encoder, state.encoded = own, (frames.shape[3], frames.shape[4])
        latents = x.transpose(1, 2)
        return self._scale.raw(latents) if self._raw else latents

    def decode(self, states: Sequence[TaehvState], latents: Tensor) -> Tensor:
        first = check_latents([state.decoded for state in states], latents, self.latent_channels)
        past = [] if first else gathered([state.decoder for state in states])
        x, carried = _run(self._decoder, latents.to(self._dtype).transpose(1, 2), past)
        for state, own in zip(states, parted(carried, len(states)), strict=True):
            state.decoder, state.decoded = own, (latents.shape[3] * SPACE, latents.shape[4] * SPACE)
        pictures = x.clamp_(-1, 1)
        return pictures[:, -1:] if first else pictures

    def part_with(self, half: Half) -> None:
        modules = {"encoder": self._encoder, "decoder": self._decoder}
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


def _run(layers: nn.ModuleList, x: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Frames (B, T, C, H, W) through the layers: what comes out, and what the memory blocks saw last.

    past: what they saw last before, (B, c, h, w) each; empty where the streams begin, for which they see zeros.
    """
    streams, carried = len(x), list[Tensor]()
    x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    for layer in layers:
        if isinstance(layer, Memory):
            x, last = layer(x, past[len(carried)] if past else x.new_zeros(streams, *x.shape[1:]))
            carried.append(last)
        else:
            x = layer(x)
    return x.view(streams, -1, *x.shape[1:]), carried


def _joined(layers: nn.Sequential) -> nn.ModuleList:
    """The layers to run: each channel mix in one with what stands around it. Takes over the others."""
    joined: list[nn.Module] = []
    mix: Mix | None = None
    for layer in layers:
        if isinstance(layer, Mix):
            mix = layer
        elif mix is not None and isinstance(layer, nn.Conv2d):
            doubled = isinstance(joined[-1], nn.Upsample)
            if doubled:
                joined.pop()
            joined.append(Grow(mix, layer) if doubled else Shrink(mix, layer))
            mix = None
        else:
            joined.append(layer)
    return nn.ModuleList(joined)


def _signed(last: nn.Module) -> nn.Conv2d:
    """The decoder's last layer, so that it gives -1..1 instead of 0..1, which bfloat16 resolves half as well."""
    signed = copy.deepcopy(last)
    assert isinstance(signed, nn.Conv2d)
    assert signed.bias is not None
    signed.weight.data.mul_(2)
    signed.bias.data.mul_(2).sub_(1)
    return signed


def _memories(channels: int) -> list[nn.Module]:
    return [Memory(channels) for _ in range(DEPTH)]


def _conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)
