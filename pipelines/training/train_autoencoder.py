"""Training loop of the autoencoder: source and styled clips alike, L1 and gradients of the picture, small latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipelines.causal_wan.autoencoder import AutoencoderGeometry, AutoencoderState, StreamingAutoencoder
from pipelines.causal_wan.memory_format import lay_out_channels_last
from pipelines.training.checkpoint import Trainer
from pipelines.training.clips import CHUNKS, ClipSet, encode_clips, to_chunks
from pipelines.training.precision import autocast
from pipelines.training.styles import STYLES

LATENT_NOISE = 0.05
"""Noise added to the latents before decoding: the decoder must forgive what the DiT gets a little wrong."""
LATENT_PENALTY = 3e-4
SOURCE_SHARE = 0.5


def train_autoencoder(
    geometry: AutoencoderGeometry,
    clips: ClipSet,
    folder: Path,
    steps: int,
    batch: int,
    crop: int,
    device: str,
    seed: int,
) -> StreamingAutoencoder:
    """A trained autoencoder, its latents' mean and deviation set from the clips."""
    torch.manual_seed(seed)
    model = StreamingAutoencoder(geometry).to(device)
    lay_out_channels_last(model)
    trainer = Trainer(model, folder / "autoencoder.pt", steps, rate=2e-3, label="autoencoder")
    frames = {style: clips.frames(style) for style in STYLES}
    for step in trainer.run():
        rng = np.random.default_rng((seed, 1, step))
        chunks = _batch(rng, frames, batch, crop).to(device)
        with autocast(device):
            decoded, penalty = _reconstruct(model, chunks)
        loss = _picture_loss(decoded, chunks) + LATENT_PENALTY * penalty
        trainer.descend(loss, psnr=_psnr(decoded, chunks))
    trainer.finish()
    _normalise(model, clips, device)
    return model


def refine_decoder(
    model: StreamingAutoencoder, clips: ClipSet, folder: Path, steps: int, batch: int, crop: int, device: str, seed: int
) -> None:
    """Trains the decoder on, in place; the latents, and what was learnt about them, stay as they are."""
    trainer = Trainer(model.decoder, folder / "decoder.pt", steps, rate=1e-3, label="decoder")
    frames = {style: clips.frames(style) for style in STYLES}
    for step in trainer.run():
        chunks = _batch(np.random.default_rng((seed, 5, step)), frames, batch, crop).to(device)
        with autocast(device):
            decoded = _decode(model, chunks)
        trainer.descend(_picture_loss(decoded, chunks), psnr=_psnr(decoded, chunks))
    trainer.finish()


def _decode(model: StreamingAutoencoder, chunks: Tensor) -> Tensor:
    """(B, chunks, 4, 3, H, W) through the frozen encoder and the decoder, float32."""
    state, decoded = AutoencoderState(), []
    for i in range(chunks.shape[1]):
        with torch.no_grad():
            latent, state = model.encode(chunks[:, i], state)
        picture, state = model.decode(latent + LATENT_NOISE * torch.randn_like(latent), state)
        decoded.append(picture)
    return torch.stack(decoded, dim=1).float()


def _batch(rng: np.random.Generator, frames: dict[str, np.ndarray], batch: int, crop: int) -> Tensor:
    """(batch, 2, 4, 3, crop, crop): two chunks that follow each other, of random clips and styles."""
    styles = list(frames)
    picked = []
    for _ in range(batch):
        style = "photo" if rng.random() < SOURCE_SHARE else styles[int(rng.integers(len(styles)))]
        clip = frames[style][int(rng.integers(len(frames[style])))]
        y, x = (8 * int(rng.integers(0, (size - crop) // 8 + 1)) for size in clip.shape[1:3])
        picked.append(clip[:, y : y + crop, x : x + crop])
    chunks = to_chunks(torch.from_numpy(np.stack(picked)))
    start = int(rng.integers(0, CHUNKS - 1))
    return chunks[:, start : start + 2]


def _reconstruct(model: StreamingAutoencoder, chunks: Tensor) -> tuple[Tensor, Tensor]:
    state, decoded, penalty = AutoencoderState(), [], torch.zeros((), device=chunks.device)
    for i in range(chunks.shape[1]):
        latent, state = model.encode(chunks[:, i], state)
        penalty = penalty + latent.float().square().mean()
        picture, state = model.decode(latent + LATENT_NOISE * torch.randn_like(latent), state)
        decoded.append(picture)
    return torch.stack(decoded, dim=1).float(), penalty


def _picture_loss(decoded: Tensor, chunks: Tensor) -> Tensor:
    """L1 of the pictures, and of the differences between neighbours in x, y and t: keeps edges sharp, stills steady."""
    d = decoded - chunks
    across, down = d.diff(dim=-1).abs().mean(), d.diff(dim=-2).abs().mean()
    return d.abs().mean() + across + down + 0.5 * d.flatten(1, 2).diff(dim=1).abs().mean()


def _psnr(decoded: Tensor, chunks: Tensor) -> Tensor:
    """Of pictures in -1..1, in dB."""
    return -10 * torch.log10((decoded.detach().clamp(-1, 1) - chunks).square().mean() / 4)


@torch.inference_mode()
def _normalise(model: StreamingAutoencoder, clips: ClipSet, device: str) -> None:
    model.mean.zero_()
    model.deviation.fill_(1.0)
    latents = torch.cat([v.flatten(0, 1).float() for v in encode_clips(model, clips, device, every=8).values()])
    model.mean.copy_(latents.mean(dim=(0, 2, 3)))
    model.deviation.copy_(latents.std(dim=(0, 2, 3)).clamp_min(1e-3))
