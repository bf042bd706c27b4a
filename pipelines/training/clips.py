"""The training set: clips of every style, made once from a seed and kept in a folder.

A clip is 13 frames (a first frame and three chunks of 4), so 4 latent frames. Files: `{size}/{style}.npy`,
(clips, 13, H, W, 3) uint8.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pipelines.causal_wan.autoencoder import AutoencoderState, StreamingAutoencoder
from pipelines.causal_wan.geometry import CHUNK
from pipelines.training.precision import autocast
from pipelines.training.scenes import Scenery
from pipelines.training.styles import STYLES

CHUNKS = 4
FRAMES = 1 + CHUNK * (CHUNKS - 1)


@dataclass(frozen=True)
class ClipSet:
    """`count` clips of width x height in every style, in `folder`; clip i depends on (seed, i) alone."""

    folder: Path
    count: int
    width: int
    height: int
    seed: int

    @property
    def path(self) -> Path:
        return self.folder / f"clips-{self.width}x{self.height}-{self.count}-seed{self.seed}"

    def frames(self, style: str) -> NDArray[np.uint8]:
        """(clips, 13, H, W, 3), mapped from disk."""
        return np.load(self.path / f"{style}.npy", mmap_mode="r")

    def make(self) -> None:
        """Writes the files that are not there yet, on all cores."""
        if (self.path / "complete").exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        shape = (self.count, FRAMES, self.height, self.width, 3)
        files = {s: np.lib.format.open_memmap(self.path / f"{s}.npy", "w+", np.uint8, shape) for s in STYLES}
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            jobs = pool.map(self._clip, range(self.count), chunksize=4)
            for i, styled in enumerate(tqdm(jobs, total=self.count, desc=f"clips {self.width}x{self.height}")):
                for style, frames in styled.items():
                    files[style][i] = frames
        for file in files.values():
            file.flush()
        (self.path / "complete").touch()

    def _clip(self, index: int) -> dict[str, NDArray[np.uint8]]:
        cv2.setNumThreads(1)
        source = _scenery().clip(np.random.default_rng((self.seed, index)), FRAMES, self.width, self.height)
        return {name: np.stack([style(frame) for frame in source]) for name, style in STYLES.items()}


_SCENERY: list[Scenery] = []


def _scenery() -> Scenery:
    """One per process: reading the photographs takes a second."""
    if not _SCENERY:
        _SCENERY.append(Scenery())
    return _SCENERY[0]


def to_chunks(frames: Tensor) -> Tensor:
    """(B, 13, H, W, 3) uint8 to (B, 4, 4, 3, H, W) in -1..1: the first frame four times, then chunks of four."""
    first = frames[:, :1].expand(-1, CHUNK - 1, -1, -1, -1)
    chunks = torch.cat([first, frames], dim=1).permute(0, 1, 4, 2, 3).float() / 127.5 - 1.0
    return chunks.unflatten(1, (-1, CHUNK))


def encode_clips(model: StreamingAutoencoder, clips: ClipSet, device: str, every: int = 1) -> dict[str, Tensor]:
    """Normalised latents of each `every`-th clip in every style, (clips, 4, C, H/8, W/8) bfloat16, on the CPU."""
    model = model.eval()
    return {s: torch.cat(list(_encode(model, clips.frames(s)[::every], device, s))) for s in STYLES}


@torch.inference_mode()
def _encode(
    model: StreamingAutoencoder, frames: NDArray[np.uint8], device: str, label: str, batch: int = 8
) -> Iterator[Tensor]:
    for start in tqdm(range(0, len(frames), batch), desc=f"encode {label}", leave=False):
        chunks = to_chunks(torch.from_numpy(np.array(frames[start : start + batch])).to(device))
        state, latents = AutoencoderState(), []
        with autocast(device):
            for i in range(CHUNKS):
                latent, state = model.encode(chunks[:, i], state)
                latents.append(latent.to(torch.bfloat16))
        yield torch.stack(latents, dim=1).cpu()
