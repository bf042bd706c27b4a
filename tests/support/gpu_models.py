"""What the GPU tests run: a DiT of the real shape of heads, small otherwise, and streams of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pipelines.bench.random_weights import random_dit
from pipelines.causal_wan import weights
from pipelines.causal_wan.attention import BACKENDS
from pipelines.causal_wan.denoiser import Denoiser, LatentRow, LatentStream
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry, SamplerGeometry

CPU = torch.device("cpu")
GRID = (6, 8)
GEOMETRY = DiTGeometry(
    latent_channels=16,
    cond_channels=0,
    patch=(1, 2, 2),
    dim=256,
    ffn_dim=512,
    heads=2,
    layers=3,
    freq_dim=64,
    text_dim=64,
    text_len=12,
    prediction="flow",
)
SAMPLER = SamplerGeometry("list", (700, 500, 400, 200), noise="fresh")
MOVING = CacheGeometry(6, 3, 0.2, sink_rule="move")
STAYING = replace(MOVING, sink_threshold=-1.0)
"""Sinks are never replaced: in 16 bits, which one is replaced can hang on the last of them."""

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Relative, of results that are to be equal but for the order of sums."""
DTYPES = list(BOUNDS)


def cache_for(dtype: torch.dtype) -> CacheGeometry:
    return MOVING if dtype == torch.float32 else STAYING


def denoiser(
    device: torch.device,
    dtype: torch.dtype,
    cache: CacheGeometry | None = None,
    attention: str = "sdpa",
    *,
    compiled: bool = False,
) -> tuple[Denoiser, CausalWanModel]:
    """The same weights on every device, rounded to `dtype`."""
    tensors = random_dit(GEOMETRY, CPU, torch.float32)
    with torch.device("meta"):
        model = CausalWanModel(GEOMETRY, BACKENDS[attention])
    weights.fill(model, {name: tensor.to(device, dtype) for name, tensor in tensors.items()})
    if compiled:
        model.compile_blocks()
    return Denoiser(model.eval(), cache or cache_for(dtype), SAMPLER, device, dtype), model


def opened(made: tuple[Denoiser, CausalWanModel], number: int) -> LatentStream:
    """Stream `number`, with a prompt and a seed of its own."""
    some = next(made[1].parameters())
    text = torch.randn(1, GEOMETRY.text_len, GEOMETRY.text_dim, generator=torch.Generator().manual_seed(number))
    return made[0].open(GRID, made[1].context(text.to(some.device, some.dtype)), number)


def clean(number: int, chunk: int, like: Tensor) -> Tensor:
    """Latent frame `chunk` of stream `number`."""
    latent = torch.randn(
        1, 16, 1, 2 * GRID[0], 2 * GRID[1], generator=torch.Generator().manual_seed(99 * number + chunk)
    )
    return latent.to(like.device, like.dtype)


def sequential(made: tuple[Denoiser, CausalWanModel], number: int, chunks: int, steps: int = 2) -> list[Tensor]:
    """Results of stream `number`, alone, every chunk through all its steps before the next; float32, on the CPU."""
    stream, some = opened(made, number), next(made[1].parameters())
    results = []
    for chunk in range(chunks):
        row = made[0].start(stream, clean(number, chunk, some), steps, 0.8)
        while not row.done:
            (row,) = made[0].step([row])
        results.append(row.latent.float().cpu())
    made[0].close(stream)
    return results


def batched(
    made: tuple[Denoiser, CausalWanModel], numbers: list[int], chunks: int, steps: int = 2
) -> dict[int, list[Tensor]]:
    """Results of several streams, all rows in flight in one pass: chunk i at step n beside chunk i + 1 at n - 1."""
    streams, some = {n: opened(made, n) for n in numbers}, next(made[1].parameters())
    results: dict[int, list[Tensor]] = {n: [] for n in numbers}
    owners = {id(stream): n for n, stream in streams.items()}
    flying: list[LatentRow] = []
    for chunk in range(chunks + steps - 1):
        if chunk < chunks:
            flying += [made[0].start(s, clean(n, chunk, some), steps, 0.8) for n, s in streams.items()]
        flying = made[0].step(flying)
        for row in (row for row in flying if row.done):
            results[owners[id(row.stream)]].append(row.latent.float().cpu())
        flying = [row for row in flying if not row.done]
    for stream in streams.values():
        made[0].close(stream)
    return results


def difference(some: list[Tensor], others: list[Tensor]) -> float:
    """The largest, of lists of tensors, relative to the others' size."""
    assert len(some) == len(others) > 0
    return max(float((a - b).norm() / b.norm()) for a, b in zip(some, others, strict=True))
