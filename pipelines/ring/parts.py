"""What a rank of a ring is made of: its part of a preset's models, on its device."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

import torch

from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.intake import Intake, Rules
from pipelines.causal_wan.parts import Codec, TextEncoder
from pipelines.causal_wan.prompt import Prompts
from pipelines.ring.arrangement import Arrangement
from pipelines.ring.balance import Balancer
from pipelines.ring.contexts import Contexts
from pipelines.ring.denoising import RingDenoiser
from pipelines.ring.entrance import Entrance
from pipelines.ring.group import Group
from pipelines.ring.head import Head, Journey
from pipelines.ring.pipeline import RingPipeline
from pipelines.ring.rank import Rank
from pipelines.ring.stage import Stage
from pipelines.ring.tail import Tail
from pipelines.ring.watch import Watch
from streamgen.core import PipelineSpec


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
class Words:
    """How prompts are embedded, on the first rank."""

    text: TextEncoder
    blend_chunks: int
    executor: Executor | None = None
    """Where that is done if it takes long; None: at once."""


def stage_of(models: RankModels, arrangement: Arrangement, rank: int) -> Stage:
    """A rank's blocks."""
    watch = Watch(rank, models.device)
    return Stage(models.dit, arrangement.layers(rank), models.rules.cache, models.device, models.dtype, watch)


def follow(models: RankModels, arrangement: Arrangement, group: Group) -> None:
    """Runs a rank behind the first until it says stop. Raises DeviceLostError where the ring breaks."""
    stage = stage_of(models, arrangement, group.rank)
    tail = Tail(models.codecs, models.dit.geometry.prediction, stage.watch) if group.rank == group.last else None
    Rank(group, stage, tail).work()


def lead(
    models: RankModels,
    arrangement: Arrangement,
    group: Group,
    spec: PipelineSpec,
    words: Words,
    balancer: Balancer,
    entrance: Entrance[Journey] | None = None,
) -> RingPipeline:
    """The first rank's pipeline, whose `spec` knows of all ranks."""
    stage = stage_of(models, arrangement, group.rank)
    contexts = Contexts(group, stage)
    prompts = Prompts(words.text, contexts.tell, words.blend_chunks, words.executor)
    denoiser = RingDenoiser(stage, group, models.rules.cache, models.rules.sampler)
    intake = Intake(spec, models.codecs, prompts, denoiser, models.rules, models.device, models.dtype)
    head = Head(group, stage, denoiser, contexts, balancer, entrance or Entrance())
    return RingPipeline(spec, intake, denoiser, stage, head)
