"""Training loop of the tiny DiT: from noised source latent, clean source latent and prompt to the styled latent.

Each iteration does what inference does: a first step from the noised source, then a later step from the re-noised
prediction of the first, both over latent frames in order with the keys and values of those before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.causal_wan.attention import BACKENDS
from pipelines.causal_wan.device import choose_dtype
from pipelines.causal_wan.dit import CausalWanModel, TextContext
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.rope import RoPE, Rotation
from pipelines.causal_wan.sampler import add_noise, clean_from
from pipelines.causal_wan.tiny_text import TinyTextEncoder
from pipelines.training.checkpoint import Trainer
from pipelines.training.clips import CHUNKS
from pipelines.training.precision import autocast
from pipelines.training.prompts import random_prompt
from pipelines.training.styles import STYLES

PROMPTS_PER_STYLE = 64


class GrowingCache:
    """Keys and values of a short clip, kept with their gradients: what RollingKVCache holds before it first evicts."""

    mask: Tensor | None = None

    def __init__(self, rope: RoPE, grid: tuple[int, int], layers: int, dtype: torch.dtype) -> None:
        self._rotations = [Rotation(rope.angles([frame], *grid), dtype) for frame in range(CHUNKS)]
        self._past: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(layers)]
        self.rotation = self._rotations[0]

    def begin(self, frame: int) -> None:
        self.rotation = self._rotations[frame]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self._past[layer].append((keys, values))
        k, v = zip(*self._past[layer], strict=True)
        return torch.cat(k, dim=1), torch.cat(v, dim=1)


class LatentClips:
    """Latents of all styles, and prompts for them."""

    def __init__(self, latents: dict[str, Tensor], text: TinyTextEncoder, seed: int) -> None:
        self._latents = latents
        self._styles = list(STYLES)
        rng = np.random.default_rng((seed, 3))
        prompts = [random_prompt(rng, style) for style in self._styles for _ in range(PROMPTS_PER_STYLE)]
        with torch.inference_mode():
            self._text = text(prompts)[0].unflatten(0, (len(self._styles), PROMPTS_PER_STYLE)).clone()

    def batch(self, rng: np.random.Generator, size: int, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Source and target latents (size, frames, C, h, w), float32, and text (size, length, dim)."""
        count, latent_frames = self._latents["photo"].shape[:2]
        clips = rng.integers(0, count, size)
        styles = rng.integers(0, len(self._styles), size)
        start = int(rng.integers(0, latent_frames - frames + 1))
        window = slice(start, start + frames)
        source = torch.stack([self._latents["photo"][c, window] for c in clips]).float()
        target = torch.stack([self._latents[self._styles[s]][c, window] for c, s in zip(clips, styles, strict=True)])
        text = self._text[torch.from_numpy(styles), torch.from_numpy(rng.integers(0, PROMPTS_PER_STYLE, size))]
        return source, target.float(), text


@dataclass(frozen=True)
class Stage:
    """A part of the training: `steps` iterations on batches of `batch` clips of `frames` latent frames."""

    clips: LatentClips
    batch: int
    frames: int
    steps: int


def train_dit(
    geometry: DiTGeometry,
    stages: Sequence[Stage],
    weight: Tensor,
    folder: Path,
    device: str,
    seed: int,
) -> CausalWanModel:
    """A trained DiT. weight: of each latent channel in the loss."""
    torch.manual_seed(seed)
    model = CausalWanModel(geometry, BACKENDS["matmul" if device == "cpu" else "sdpa"]).to(device)
    nn.init.zeros_(model.head.linear.weight)
    rope = RoPE(geometry.rope_pairs, torch.device(device))
    weight = (weight / weight.mean()).to(device)[:, None, None, None]
    trainer = Trainer(model, folder / "dit.pt", sum(s.steps for s in stages), rate=1e-3, label="dit", mean_decay=0.998)
    ends = np.cumsum([s.steps for s in stages])
    for step in trainer.run():
        stage = stages[int(np.searchsorted(ends, step, side="right"))]
        rng = np.random.default_rng((seed, 4, step))
        source, target, text = (x.to(device) for x in stage.clips.batch(rng, stage.batch, stage.frames))
        with autocast(device):
            first, later = _two_steps(model, rope, rng, source, target, text, weight)
        trainer.descend(first + later, first=first, later=later)
    trainer.finish()
    return model


def _two_steps(
    model: CausalWanModel,
    rope: RoPE,
    rng: np.random.Generator,
    source: Tensor,
    target: Tensor,
    text: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """The losses of a first and a later step."""
    high = torch.from_numpy(rng.uniform(0.1, 1.0, len(source)).astype(np.float32)).to(source.device)
    low = high * torch.from_numpy(rng.choice([0.25, 0.5, 0.75], len(source)).astype(np.float32)).to(source.device)
    context = model.context(text)
    predicted = _denoise(model, rope, source, source, high, context)
    refined = _denoise(model, rope, predicted.detach(), source, low, context)
    return _loss(predicted, target, weight), _loss(refined, target, weight)


def _denoise(
    model: CausalWanModel, rope: RoPE, clean: Tensor, source: Tensor, sigma: Tensor, context: TextContext
) -> Tensor:
    """Predictions (rows, frames, C, h, w) from `clean` noised to sigma, frame by frame."""
    height, width = source.shape[3] // model.geometry.patch[1], source.shape[4] // model.geometry.patch[2]
    cache = GrowingCache(rope, (height, width), model.geometry.layers, choose_dtype(source.device))
    noise = torch.randn_like(source[:, 0])[:, :, None]
    predictions = []
    for frame in range(source.shape[1]):
        cache.begin(frame)
        latent = add_noise(clean[:, frame][:, :, None], noise, sigma)
        condition = source[:, frame][:, :, None]
        out = model(latent, condition, sigma, context, cache)
        predictions.append(clean_from(out, latent, condition, sigma, model.geometry.prediction).float()[:, :, 0])
    return torch.stack(predictions, dim=1)


def _loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    error = (predicted - target).transpose(1, 2)
    return (weight * (error.square() + 0.3 * error.abs())).mean()
