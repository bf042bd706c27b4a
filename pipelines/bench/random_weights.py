"""Weights drawn at random, straight onto a device: the cost of a geometry without its checkpoint."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import DiTGeometry

_SEED = 20


def random_dit(geometry: DiTGeometry, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """A state dict of CausalWanModel, spread as a new model's is; the same seed, device and format give the same."""
    with torch.device("meta"):
        empty = CausalWanModel(geometry)
    return random_like(empty, device, dtype)


def random_like(model: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of the names and shapes of `model`, which may be on torch's meta device."""
    generator = torch.Generator(device).manual_seed(_SEED)
    made = {}
    for name, like in model.state_dict().items():
        tensor = torch.empty(like.shape, device=device, dtype=dtype)
        made[name] = _fill(name, tensor, generator)
    return made


def _fill(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if name.endswith("modulation"):
        return tensor.normal_(0.0, tensor.shape[-1] ** -0.5, generator=generator)
    if tensor.ndim == 1 or name.endswith("gamma"):  # a bias, or the scale of a norm, which is about one
        scale = name.endswith("gamma") or ("norm" in name and name.endswith("weight"))
        return tensor.normal_(float(scale), 0.05, generator=generator)
    bound = math.prod(tensor.shape[1:]) ** -0.5
    return tensor.uniform_(-bound, bound, generator=generator)


def random_frames(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """(count, height, width, 3) uint8 on the CPU: coarse patches of colour that move, and grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 16 + 2, width // 16 + 2, generator=generator)
    picture = nn.functional.interpolate(coarse, scale_factor=16, mode="bilinear")[0]
    moved = torch.stack([picture[:, i : i + height, i : i + width] for i in range(min(count, 16))])
    frames = moved[torch.arange(count) % len(moved)]
    grain = 0.05 * torch.rand(frames.shape, generator=generator)
    return (255 * (frames + grain)).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
