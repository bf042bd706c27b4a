"""Endurance: a stream of thousands of chunks at a small geometry, watched for what only shows after hours.

The source repeats itself, so that the last chunks of a run see what the first ones saw: their latents' statistics must
be the same, every number finite, and the process no larger than it was when everything had been allocated.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.bench.random_weights import random_dit
from pipelines.causal_wan.denoiser import Denoiser, LatentRow
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry, SamplerGeometry

GRID = (2, 3)
SCENE = 50
"""Chunks from cut to cut."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rules:
    """What a stream runs under."""

    dit: DiTGeometry
    cache: CacheGeometry
    sampler: SamplerGeometry
    steps: int
    batched: bool
    """Stream batch, else all steps of a chunk one after the other."""


def _dit(**changes: Any) -> DiTGeometry:
    sizes = {"patch": (1, 2, 2), "dim": 64, "ffn_dim": 128, "heads": 2, "layers": 2, "freq_dim": 32}
    return DiTGeometry(**{**sizes, "text_dim": 16, "text_len": 4, "latent_channels": 4, **changes})


_WAN = _dit(cond_channels=0, prediction="flow")
_LIST = SamplerGeometry("list", (700, 500, 400, 200), noise="fresh")

RULES: Mapping[str, Rules] = {
    "wan": Rules(_WAN, CacheGeometry(6, 3, 0.2, sink_rule="move", start="last"), _LIST, 2, True),
    "wan-shared": Rules(_WAN, CacheGeometry(6, 3, 0.2, sink_rule="move", memory="last"), _LIST, 2, False),
    "tiny": Rules(
        _dit(cond_channels=4, prediction="residual"), CacheGeometry(4, 1, 0.2), SamplerGeometry(), 2, False
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Statistics of the latents of some chunks."""

    mean: float
    std: float
    largest: float

    @classmethod
    def of(cls, sums: list[tuple[float, float, float, int]]) -> Part:
        """Of each chunk's sum, sum of squares, largest magnitude and count."""
        count = sum(n for *_, n in sums)
        mean = sum(s for s, *_ in sums) / count
        return cls(
            mean, math.sqrt(max(sum(q for _, q, *_ in sums) / count - mean**2, 0.0)), max(m for *_, m, _ in sums)
        )


@dataclass(frozen=True)
class Run:
    """What came of it."""

    chunks: int
    finite: bool
    first: Part
    last: Part
    warm_mib: float | None
    """The process after the first part, None where the system does not tell."""
    end_mib: float | None
    ms_per_chunk: float

    def faults(self, drift: float = 0.05, growth_mib: float = 16.0) -> Iterator[str]:
        """What is not as it must be. drift: of mean and spread, in parts of the spread."""
        if not self.finite:
            yield "a latent is not finite"
        for what, a, b in (("mean", self.first.mean, self.last.mean), ("spread", self.first.std, self.last.std)):
            if not abs(b - a) <= drift * self.first.std:
                yield f"the {what} of the last latents is {b:.4f}, of the first {a:.4f}"
        if self.warm_mib is not None and self.end_mib is not None and self.end_mib - self.warm_mib > growth_mib:
            yield f"the process has grown from {self.warm_mib:.0f} to {self.end_mib:.0f} MiB"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "faults": list(self.faults())}


def endure(rules: Rules, chunks: int, part: int, tell: Callable[[int], None] = lambda done: None) -> Run:
    """Runs a stream of `chunks`, of which the first and the last `part` are compared. tell: called after each chunk."""
    if chunks < 2 * part:
        raise ValueError(f"{chunks} chunks have no first and last {part}")
    sums, warm, began = [], None, time.perf_counter()
    with torch.inference_mode():
        for latent in _stream(rules, chunks, part):
            double = latent.double()
            sums.append((float(double.sum()), float(double.square().sum()), float(double.abs().max()), latent.numel()))
            if len(sums) == part:
                warm = resident_mib()
            tell(len(sums))
    elapsed = time.perf_counter() - began
    return Run(
        chunks=len(sums),
        finite=all(math.isfinite(number) for entry in sums for number in entry),
        first=Part.of(sums[:part]),
        last=Part.of(sums[-part:]),
        warm_mib=warm,
        end_mib=resident_mib(),
        ms_per_chunk=1000.0 * elapsed / chunks,
    )


def _stream(rules: Rules, chunks: int, period: int) -> Iterator[Tensor]:
    """The clean latents of a stream whose source repeats itself after `period` chunks."""
    model = CausalWanModel(rules.dit)
    model.load_state_dict(random_dit(rules.dit, _CPU, torch.float32))
    model.eval().requires_grad_(False)
    denoiser = Denoiser(model, rules.cache, rules.sampler, _CPU, torch.float32)
    text = _normal(0, (1, rules.dit.text_len, rules.dit.text_dim))
    stream = denoiser.open(GRID, model.context(text), seed=1)
    flying: list[LatentRow] = []
    for chunk in range(chunks):
        flying.append(denoiser.start(stream, _source(rules.dit, chunk % period), rules.steps, 0.8))
        flying = denoiser.step(flying)
        while not rules.batched and not flying[0].done:
            flying = denoiser.step(flying)
        yield from (row.latent for row in flying if row.done)
        flying = [row for row in flying if not row.done]
    while flying:
        flying = denoiser.step(flying)
        yield from (row.latent for row in flying if row.done)
        flying = [row for row in flying if not row.done]


def _source(g: DiTGeometry, chunk: int) -> Tensor:
    """Scenes with a cut now and then, in each of which something changes."""
    shape = (1, g.latent_channels, 1, GRID[0] * g.patch[1], GRID[1] * g.patch[2])
    return _normal(1 + chunk // SCENE, shape) + 0.3 * _normal(1_000_000 + chunk, shape)


def _normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def resident_mib() -> float | None:
    """Memory of this process that is in RAM, None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
