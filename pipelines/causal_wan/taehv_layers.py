"""Layers of TAEHV: as its weights are named, and joined into fewer and smaller convolutions to run.

All take the frames of B streams as one batch (B * T, C, H, W), a stream's frames in succession.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_TAPS = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
"""[phase, tap of 2, tap of 3]: a pixel of phase 0 or 1 of a doubled picture sees 3 pixels, which were only 2 before."""


class Memory(nn.Module):
    """Three convolutions of a frame and the one before it, beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """The frames after it, and the last frame (B, C, H, W) to be the next call's `past`."""
        streams, channels, height, width = past.shape
        frames = x.view(streams, -1, channels, height, width)
        pairs = _channels_last(len(x), 2 * channels, height, width, x)
        halves = pairs.view(streams, -1, 2, channels, height, width)
        halves[:, :, 0] = frames
        halves[:, 0, 1] = past
        halves[:, 1:, 1] = frames[:, :-1]
        return self.conv(pairs).add_(x).relu_(), frames[:, -1].clone()


class Mix(nn.Module):
    """A 1x1 convolution over the channels of frames in succession, under the name that its weight has in the file."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)


class Shrink(nn.Module):
    """Half the size, and one frame of every `stride`: their channels mixed, then a convolution of stride 2, in one."""

    def __init__(self, mix: Mix, conv: nn.Conv2d) -> None:
        super().__init__()
        weight = torch.einsum("omyx,mi->oiyx", _exact(conv), _exact(mix.conv)[:, :, 0, 0])
        self._stride = weight.shape[1] // mix.conv.out_channels
        self.conv = _conv(weight, conv, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        frames = x.view(-1, self._stride, channels, height, width)
        together = _channels_last(len(frames), self._stride * channels, height, width, x)
        together.view(-1, self._stride, channels, height, width).copy_(frames)
        return self.conv(together)


class Grow(nn.Module):
    """Twice the size by repeating pixels, `stride` frames of every one by mixing channels, then a convolution, in one.

    Nothing but sums is between these three, so they are one convolution. Of its 3x3 inputs in the doubled picture only
    2x2 differ, so it is a 2x2 convolution at the smaller size, for each of the four phases of the doubled pixels:

        rows of the doubled picture    0 0 | 1 1 | 2 2      phase 0 of row 1 sees rows 0 and 1, phase 1 rows 1 and 2
    """

    def __init__(self, mix: Mix, conv: nn.Conv2d) -> None:
        super().__init__()
        self._outputs, inputs = conv.out_channels, mix.conv.in_channels
        self._stride = mix.conv.out_channels // inputs
        parts = _exact(mix.conv)[:, :, 0, 0].view(self._stride, inputs, inputs)
        taps = _TAPS.to(parts)
        weight = torch.einsum("apy,bqx,omyx,tmi->abtoipq", taps, taps, _exact(conv), parts)
        self.conv = _conv(weight.reshape(-1, inputs, 2, 2), conv, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.shape
        phases = self.conv(x).view(len(x), 2, 2, self._stride, self._outputs, height + 1, width + 1)
        out = _channels_last(len(x) * self._stride, self._outputs, 2 * height, 2 * width, x)
        pixels = out.view(len(x), self._stride, self._outputs, height, 2, width, 2)
        for a in range(2):
            for b in range(2):
                pixels[..., a, :, b] = phases[:, a, b, :, :, a : a + height, b : b + width]
        return out


class SoftClamp(nn.Module):
    """To -3..3, smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def _exact(conv: nn.Conv2d) -> Tensor:
    """The weight in the number format in which products of weights are computed."""
    return conv.weight.detach().double()


def _conv(weight: Tensor, like: nn.Conv2d, *, padding: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias with this weight, in the number format and on the device of `like`."""
    outputs, inputs, size, _ = weight.shape
    made = nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, bias=False, device="meta")
    made.weight = nn.Parameter(weight.to(like.weight), requires_grad=False)
    return made


def _channels_last(count: int, channels: int, height: int, width: int, like: Tensor) -> Tensor:
    shape = (count, channels, height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
