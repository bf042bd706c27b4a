"""The tiny preset's causal streaming video autoencoder: 8x in space, 4x in time, state carried from chunk to chunk.

A chunk is 4 frames; the first chunk of a stream may be one frame, given 4 times. Weights hold no state: `encode` and
`decode` take the state of the chunk before and return the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.causal_wan.geometry import CHUNK
from pipelines.causal_wan.parts import Half


@dataclass(frozen=True)
class AutoencoderGeometry:
    """Sizes of the autoencoder."""

    latent_channels: int
    width: int
    """Channels at 1/8 size, shared by a chunk's frames."""
    frame_width: int
    """Channels at 1/4 size, per frame."""


class AutoencoderState(NamedTuple):
    """What one stream carries from chunk to chunk: the last one's features (1, width, H/8, W/8); None at its start."""

    encoder: Tensor | None = None
    decoder: Tensor | None = None


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Memory(nn.Module):
    """Mixes a chunk's features with those of the chunk before (zeros where there is none)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, x: Tensor, past: Tensor | None) -> Tensor:
        past = torch.zeros_like(x) if past is None else past
        return x + F.relu(self.mix(torch.cat([x, past], dim=1)))


class Encoder(nn.Module):
    """(B, 4, 3, H, W) in -1..1 to (B, C, H/8, W/8)."""

    def __init__(self, g: AutoencoderGeometry) -> None:
        super().__init__()
        c, d = g.frame_width, 2 * g.frame_width
        self.stem = nn.Conv2d(48, c, 3, padding=1)
        self.frame = Residual(c)
        self.down = nn.Conv2d(c, d, 3, stride=2, padding=1)
        self.gather = nn.Conv2d(CHUNK * d, g.width, 1)
        self.memory = Memory(g.width)
        self.body = Residual(g.width)
        self.out = nn.Conv2d(g.width, g.latent_channels, 1)

    def forward(self, frames: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        batch = frames.shape[0]
        x = F.pixel_unshuffle(frames.flatten(0, 1), 4).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.down(self.frame(self.stem(x))))
        x = self.gather(x.reshape(batch, -1, *x.shape[2:]))
        x = self.memory(x, past)
        return self.out(self.body(x)), x


class Decoder(nn.Module):
    """(B, C, H/8, W/8) to (B, 4, 3, H, W), about -1..1."""

    def __init__(self, g: AutoencoderGeometry) -> None:
        super().__init__()
        c, d = g.frame_width, 2 * g.frame_width
        self.stem = nn.Conv2d(g.latent_channels, g.width, 3, padding=1)
        self.memory = Memory(g.width)
        self.body = nn.Sequential(Residual(g.width), Residual(g.width))
        self.spread = nn.Conv2d(g.width, CHUNK * d, 1)
        self.frame = Residual(d)
        self.up = nn.Conv2d(d, 4 * c, 3, padding=1)
        self.fine = Residual(c)
        self.up2 = nn.Conv2d(c, 64, 3, padding=1)
        self.finest = Residual(16)
        self.out = nn.Conv2d(16, 12, 3, padding=1)

    def forward(self, latent: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        batch = latent.shape[0]
        memory = self.memory(self.stem(latent.contiguous(memory_format=torch.channels_last)), past)
        x = self.spread(self.body(memory))
        x = self.frame(x.reshape(batch * CHUNK, -1, *x.shape[2:]).contiguous(memory_format=torch.channels_last))
        x = self.fine(F.pixel_shuffle(self.up(x), 2))
        x = self.finest(F.pixel_shuffle(self.up2(x), 2))
        x = F.pixel_shuffle(self.out(x), 2)
        return x.reshape(batch, CHUNK, *x.shape[1:]), memory


class StreamingAutoencoder(nn.Module):
    """Encoder and decoder, and mean and deviation of the latents' channels, so that noise means the same in each."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, geometry: AutoencoderGeometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.encoder = Encoder(geometry)
        self.decoder = Decoder(geometry)
        self.register_buffer("mean", torch.zeros(geometry.latent_channels))
        self.register_buffer("deviation", torch.ones(geometry.latent_channels))

    def encode(self, frames: Tensor, state: AutoencoderState) -> tuple[Tensor, AutoencoderState]:
        """(B, 4, 3, H, W) in -1..1 to normalised latents (B, C, H/8, W/8), and the state after them."""
        latent, past = self.encoder(frames, state.encoder)
        return (latent - self._column(self.mean)) / self._column(self.deviation), state._replace(encoder=past)

    def decode(self, latent: Tensor, state: AutoencoderState) -> tuple[Tensor, AutoencoderState]:
        """Normalised latents (B, C, H/8, W/8) to frames (B, 4, 3, H, W), about -1..1, and the state after them."""
        frames, past = self.decoder(latent * self._column(self.deviation) + self._column(self.mean), state.decoder)
        return frames, state._replace(decoder=past)

    @staticmethod
    def _column(values: Tensor) -> Tensor:
        return values[:, None, None]


@dataclass(eq=False)
class TinyCodecState:
    """One stream's place: what encoder and decoder carry, and whether decoding has begun."""

    carried: AutoencoderState = field(default_factory=AutoencoderState)
    decoding: bool = False


class TinyCodec:
    """The autoencoder as a codec (parts.Codec): a stream's first frame goes in four times, and comes out once."""

    def __init__(self, model: StreamingAutoencoder) -> None:
        self._model = model
        self._dtype = next(model.parameters()).dtype

    @property
    def latent_channels(self) -> int:
        return self._model.geometry.latent_channels

    def open(self) -> TinyCodecState:
        return TinyCodecState()

    def encode(self, states: Sequence[TinyCodecState], frames: Tensor) -> Tensor:
        past = AutoencoderState(encoder=_gathered([state.carried.encoder for state in states]))
        latents, after = self._model.encode(frames.to(self._dtype).expand(-1, CHUNK, -1, -1, -1), past)
        for i, state in enumerate(states):
            state.carried = state.carried._replace(encoder=_only(after.encoder, i))
        return latents.unsqueeze(2)

    def decode(self, states: Sequence[TinyCodecState], latents: Tensor) -> Tensor:
        past = AutoencoderState(decoder=_gathered([state.carried.decoder for state in states]))
        first = not states[0].decoding
        frames, after = self._model.decode(latents.squeeze(2), past)
        for i, state in enumerate(states):
            state.carried = state.carried._replace(decoder=_only(after.decoder, i))
            state.decoding = True
        return frames[:, -1:] if first else frames

    def part_with(self, half: Half) -> None:
        modules = {"encoder": self._model.encoder, "decoder": self._model.decoder}
        modules[half].to("meta")


def _gathered(parts: Sequence[Tensor | None]) -> Tensor | None:
    """States (1, ...) of several streams as one batch; None where they begin."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    assert len(known) == len(parts), "streams that begin and streams that go on do not share a batch"
    return torch.cat(known) if len(known) > 1 else known[0]


def _only(batch: Tensor | None, i: int) -> Tensor | None:
    """Row i with a memory of its own, so that no stream keeps another's alive."""
    return None if batch is None else batch[i : i + 1].clone() if len(batch) > 1 else batch
