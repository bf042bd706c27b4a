"""Sizes of Wan's VAE, and from them the shape of everything that a stream carries from chunk to chunk. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

WAN_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_DEVIATION = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
"""Of the 16 latent channels of Wan 2.1, as its configuration gives them (see latent_scale)."""


class Slot(NamedTuple):
    """The last input frames of one causal convolution: (B, channels, frames, H / divisor, W / divisor)."""

    channels: int
    frames: int
    divisor: int

    def elements(self, height: int, width: int) -> int:
        """Numbers that a stream of frames of this size keeps here."""
        return self.channels * self.frames * (height // self.divisor) * (width // self.divisor)


@dataclass(frozen=True)
class WanVaeGeometry:
    """The sizes under the names of diffusers' AutoencoderKLWan; by default those of Wan 2.1."""

    base_dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = WAN_MEAN
    latents_std: tuple[float, ...] = WAN_DEVIATION

    def __post_init__(self) -> None:
        if len(self.dim_mult) != 4 or len(self.temperal_downsample) != 3 or sum(self.temperal_downsample) != 2:
            raise ValueError("dim_mult has 4 levels, temperal_downsample 3, two of them true: 8x in space, 4x in time")
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            raise ValueError(f"latents_mean and latents_std have z_dim = {self.z_dim} values each")

    def config(self) -> dict[str, Any]:
        """Arguments of AutoencoderKLWan."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def encoder_slots(self) -> list[Slot]:
        """In the order in which the encoder's convolutions come up."""
        return list(self._encoder_slots())

    def decoder_slots(self) -> list[Slot]:
        """In the order in which the decoder's convolutions come up."""
        return list(self._decoder_slots())

    def encoder_bytes(self, height: int, width: int, dtype: torch.dtype) -> int:
        """Bytes that the encoder keeps of a stream of frames of this size, in pixels."""
        return sum(slot.elements(height, width) for slot in self._encoder_slots()) * dtype.itemsize

    def decoder_bytes(self, height: int, width: int, dtype: torch.dtype) -> int:
        """Bytes that the decoder keeps of a stream of frames of this size, in pixels."""
        return sum(slot.elements(height, width) for slot in self._decoder_slots()) * dtype.itemsize

    def _encoder_slots(self) -> Iterator[Slot]:
        yield Slot(3, 2, 1)
        channels = self.base_dim
        for level, factor in enumerate(self.dim_mult):
            for _ in range(self.num_res_blocks):
                yield Slot(channels, 2, 2**level)
                channels = self.base_dim * factor
                yield Slot(channels, 2, 2**level)
            if level < len(self.temperal_downsample) and self.temperal_downsample[level]:
                yield Slot(channels, 1, 2 ** (level + 1))
        yield from self._middle()
        yield Slot(channels, 2, 8)

    def _decoder_slots(self) -> Iterator[Slot]:
        yield Slot(self.z_dim, 2, 8)
        yield from self._middle()
        channels = self.base_dim * self.dim_mult[-1]
        for level, factor in enumerate(reversed(self.dim_mult)):
            divisor = 8 >> level
            for _ in range(self.num_res_blocks + 1):
                yield Slot(channels, 2, divisor)
                channels = self.base_dim * factor
                yield Slot(channels, 2, divisor)
            if level < len(self.temperal_downsample):
                if self.temperal_downsample[-1 - level]:
                    yield Slot(channels, 2, divisor)
                channels //= 2
        yield Slot(channels, 2, 1)

    def _middle(self) -> Iterator[Slot]:
        """Two residual blocks of two convolutions each, at 1/8 size."""
        for _ in range(4):
            yield Slot(self.base_dim * self.dim_mult[-1], 2, 8)
