"""What a rank of a ring is made of: its part of a preset's models, on its device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.intake import Intake, Rules
from pipelines.causal_wan.parts import Codec
from pipelines.causal_wan.prompt import Prompts
from pipelines.ring.balance import Balancer
from pipelines.ring.contexts import Contexts
from pipelines.ring.denoising import RingDenoiser
from pipelines.ring.entrance import Entrance
from pipelines.ring.group import Group
from pipelines.ring.head import Head, Journey
from pipelines.ring.pipeline import RingPipeline
from pipelines.ring.rank import Rank
from pipelines.ring.stage import Pace, Stage
from pipelines.ring.tail import Tail
from pipelines.ring.watch import Watch
from streamgen.core import PipelineSpec

SPARE_CHUNKS = 2
"""Chunks of one stream beyond one for each rank: one being encoded, one being decoded."""


@dataclass(frozen=True)
class RankModels:
    """The models of one rank. Blocks that others have are on torch's meta device."""

    dit: CausalWanModel
    rules: Rules
    device: torch.device
    dtype: torch.dtype
    codecs: Mapping[str, Codec]
    """By what `Params.vae` calls them; of the first and the last rank."""


@dataclass(frozen=True)
class Arrangement:
    """How a ring is run, beside what it is made of."""

    split: tuple[int, ...]
    """Blocks of each rank at first."""
    paces: tuple[Pace, ...] = ()
    """Of each rank, where it is tried out; none for as fast as it goes."""

    def pace(self, rank: int) -> Pace:
        """Of a rank."""
        return self.paces[rank] if self.paces else Pace()


def stage_of(models: RankModels, arrangement: Arrangement, rank: int) -> Stage:
    """A rank's blocks."""
    before = sum(arrangement.split[:rank])
    layers = range(before, before + arrangement.split[rank])
    watch = Watch(rank, models.device)
    return Stage(
        models.dit, layers, models.rules.cache, models.device, models.dtype, watch, arrangement.pace(rank)
    )  # fmt: skip


def follow(models: RankModels, arrangement: Arrangement, group: Group) -> None:
    """Runs a rank behind the first until it says stop. Raises DeviceLostError where the ring breaks."""
    stage = stage_of(models, arrangement, group.rank)
    tail = Tail(models.codecs, stage.watch) if group.rank == group.last else None
    Rank(group, stage, tail).work()


def lead(
    models: RankModels,
    arrangement: Arrangement,
    group: Group,
    spec: PipelineSpec,
    prompts: Prompts[object],
    balancer: Balancer,
    entrance: Entrance[Journey] | None = None,
) -> RingPipeline:
    """The first rank's pipeline. `spec` is that of one device; `prompts` makes nothing of them but their embeddings."""
    stage = stage_of(models, arrangement, group.rank)
    contexts = Contexts(group, stage)
    told = Prompts[object](prompts.text, contexts.tell, prompts.blend_chunks, prompts.executor)
    denoiser = RingDenoiser(stage, group, models.rules.cache, models.rules.sampler)
    intake = Intake(spec, models.codecs, told, denoiser, models.rules, models.device, models.dtype)
    head = Head(group, stage, denoiser, contexts, balancer, entrance or Entrance())
    return RingPipeline(spec, intake, denoiser, stage, head)
