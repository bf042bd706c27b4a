"""Rings of small random models: this process is the first rank, others are processes of their own."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from pathlib import Path

import torch
from torch import Tensor

from pipelines.bench.paced import Pace, PacedModel
from pipelines.causal_wan.autoencoder import AutoencoderGeometry, StreamingAutoencoder, TinyCodec
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry, SamplerGeometry
from pipelines.causal_wan.intake import Rules
from pipelines.causal_wan.noise import NoiseGeometry
from pipelines.causal_wan.pipeline import CausalWanPipeline, Models
from pipelines.causal_wan.tiny_text import TextGeometry, TinyText, TinyTextEncoder
from pipelines.ring import parts
from pipelines.ring.arrangement import SPARE_CHUNKS, Arrangement
from pipelines.ring.balance import Balancer
from pipelines.ring.group import Group
from pipelines.ring.operations import Rows
from pipelines.ring.parts import RankModels, Words
from pipelines.ring.pipeline import RingPipeline
from pipelines.ring.seat import part_of
from pipelines.ring.stage import Stage
from streamgen.core import Params, PipelineSpec
from streamgen.errors import DeviceLostError
from tests.support.models import CACHE, DEFAULTS, DIT

CPU = torch.device("cpu")
FIVE = replace(DIT, layers=5)
PROPORTIONAL = SamplerGeometry()


@dataclass(frozen=True)
class Recipe:
    """What makes the same models in every process."""

    dit: DiTGeometry = FIVE
    cache: CacheGeometry = CACHE
    sampler: SamplerGeometry = PROPORTIONAL
    seed: int = 0
    defaults: Params = DEFAULTS
    paces: tuple[Pace, ...] = ()
    """Of each rank; none for as fast as it goes."""
    unfit_grid: tuple[int, int] | None = None
    """Ranks behind the first fail at latent frames of this grid."""

    @property
    def spec(self) -> PipelineSpec:
        return PipelineSpec("random", 4, 1, 16, 256 * 256, 16.0, 0, self.defaults)

    @property
    def rules(self) -> Rules:
        return Rules(self.cache, self.sampler, NoiseGeometry())

    def models(self) -> Models:
        torch.manual_seed(self.seed)
        autoencoder = StreamingAutoencoder(AutoencoderGeometry(latent_channels=8, width=16, frame_width=8))
        dit = CausalWanModel(self.dit)
        text = TinyTextEncoder(TextGeometry(buckets=64, dim=16, layers=1, heads=2, length=6), 3)
        for model in (autoencoder, dit, text):
            model.eval().requires_grad_(False)
        return Models(TinyCodec(autoencoder), dit, TinyText(text))

    def whole(self) -> CausalWanPipeline:
        """On one device."""
        return CausalWanPipeline(self.spec, self.models(), self.rules, CPU, torch.float32)

    def rank(self, arrangement: Arrangement, rank: int) -> tuple[RankModels, Models]:
        """A rank's part, the rest of the DiT on the meta device."""
        models, part = self.models(), part_of(arrangement, rank)
        with torch.device("meta"):
            dit = PacedModel(self.dit, self.paces[rank] if self.paces else Pace())
        kept = {name: tensor for name, tensor in models.dit.state_dict().items() if part.keeps(name)}
        dit.load_state_dict(kept, strict=False, assign=True)
        dit.eval().requires_grad_(False)
        codecs = {"full": models.codec} if part.first or part.last else {}
        return RankModels(dit, self.rules, CPU, torch.float32, codecs), models


def context() -> BaseContext:
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["torch", "torch.distributed", "pipelines.ring.parts", "tests.support.ring"])
    return made


def run_rank(recipe: Recipe, arrangement: Arrangement, rendezvous: str, rank: int) -> None:
    torch.set_num_threads(1)
    group = Group(rendezvous, rank, len(arrangement.split), CPU)
    models, _ = recipe.rank(arrangement, rank)
    if recipe.unfit_grid is not None:
        fail_at(recipe.unfit_grid)
    parts.follow(models, arrangement, group)
    group.leave()


def fail_at(grid: tuple[int, int]) -> None:
    through = Stage.through

    def failing(self: Stage, rows: Rows, x: Tensor, modulation: Tensor) -> Tensor:
        if rows.grid == grid:
            raise RuntimeError("no kernel for this size")
        return through(self, rows, x, modulation)

    Stage.through = failing  # type: ignore[method-assign]


@contextmanager
def ring(
    recipe: Recipe,
    arrangement: Arrangement,
    balancer: Balancer | None = None,
    pids: dict[int, int] | None = None,
) -> Iterator[RingPipeline]:
    """The ring's pipeline; blocks stay where they are if no balancer is given. `pids` gets those of the other ranks."""
    split = arrangement.split
    if balancer is None:
        balancer = Balancer(split)
        balancer.freeze()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = str(Path(folder) / "rendezvous")
        processes = started(recipe, arrangement, rendezvous)
        if pids is not None:
            pids |= {rank: process.pid or 0 for rank, process in enumerate(processes, start=1)}
        group = Group(rendezvous, 0, len(split), CPU)
        try:
            models, whole = recipe.rank(arrangement, 0)
            words = Words(whole.text, recipe.rules.blend_chunks)
            spec = replace(recipe.spec, stages=len(split), flight=len(split) + SPARE_CHUNKS)
            pipeline = parts.lead(models, arrangement, group, spec, words, balancer)
            try:
                yield pipeline
            finally:
                pipeline.stop()
        finally:
            with suppress(DeviceLostError):
                group.leave()
            torch.set_num_threads(threads)
            for process in processes:
                process.join(10)
                process.kill()
                process.join()


def started(recipe: Recipe, arrangement: Arrangement, rendezvous: str) -> Sequence[multiprocessing.Process]:
    made = context()
    processes = []
    for rank in range(1, len(arrangement.split)):
        process = made.Process(target=run_rank, args=(recipe, arrangement, rendezvous, rank), daemon=True)
        process.start()
        processes.append(process)
    return processes
