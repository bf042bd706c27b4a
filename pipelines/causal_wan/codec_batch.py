"""The batch of streams that a codec works on in one call: what is checked of it, how states are joined and parted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.causal_wan.geometry import CHUNK

SPACE = 8
"""Pixels to a latent along each edge."""

Size = tuple[int, int]


def check_frames(sizes: Sequence[Size | None], frames: Tensor) -> bool:
    """Whether the streams begin with these frames.

    sizes: height and width in pixels of each stream's frames before, None where it begins. frames: (B, T, 3, H, W).
    Raises ValueError for another shape than these streams take.
    """
    if frames.ndim != 5 or frames.shape[2] != 3:
        raise ValueError(f"frames are (B, T, 3, H, W), not {tuple(frames.shape)}")
    first = _together(sizes, len(frames))
    if frames.shape[1] != (1 if first else CHUNK):
        raise ValueError(f"a stream takes 1 frame where it begins, then {CHUNK} at a time; got {frames.shape[1]}")
    height, width = frames.shape[3:]
    if height % SPACE or width % SPACE:
        raise ValueError(f"height and width of frames are multiples of {SPACE}, not {height}x{width}")
    _same_size(sizes, (height, width))
    return first


def check_latents(sizes: Sequence[Size | None], latents: Tensor, channels: int) -> bool:
    """Whether the streams begin with these latents (B, channels, 1, H/8, W/8); `sizes` as above. Raises ValueError."""
    if latents.ndim != 5 or latents.shape[1] != channels or latents.shape[2] != 1:
        raise ValueError(f"latents are (B, {channels}, 1, H/{SPACE}, W/{SPACE}), not {tuple(latents.shape)}")
    first = _together(sizes, len(latents))
    _same_size(sizes, (latents.shape[3] * SPACE, latents.shape[4] * SPACE))
    return first


def gathered(streams: Sequence[list[Tensor]]) -> list[Tensor]:
    """What several streams carry, each tensor (1, ...), as one batch of tensors (B, ...)."""
    if len(streams) == 1:
        return list(streams[0])
    return [torch.cat(column) for column in zip(*streams, strict=True)]


def parted(batch: list[Tensor], count: int) -> list[list[Tensor]]:
    """The inverse of `gathered`. Each stream's tensors have memory of their own: none keeps another's alive."""
    if count == 1:
        return [batch]
    return [[tensor[i : i + 1].clone() for tensor in batch] for i in range(count)]


def _together(sizes: Sequence[Size | None], rows: int) -> bool:
    if rows != len(sizes) or not rows:
        raise ValueError(f"{rows} rows for {len(sizes)} streams")
    begun = [size is not None for size in sizes]
    if any(begun) != all(begun):
        raise ValueError("streams that begin and streams that go on do not share a batch")
    return not begun[0]


def _same_size(sizes: Sequence[Size | None], size: Size) -> None:
    for known in sizes:
        if known not in (None, size):
            raise ValueError(f"a stream of {known[1]}x{known[0]} pixels got a chunk of {size[1]}x{size[0]}")
