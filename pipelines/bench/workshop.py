"""Builds the contenders: weights drawn once for each model and number format, shared by both sides and all cases."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.bench.case import Case, Model
from pipelines.bench.measure import Contender
from pipelines.bench.memory import weights_bytes
from pipelines.bench.ours import OurModels, Ours
from pipelines.bench.published import Package, Published, PublishedModels, empty_dit, empty_wan_vae
from pipelines.bench.random_weights import random_dit, random_like
from pipelines.bench.side import Weights
from pipelines.causal_wan.layouts import from_wan
from pipelines.causal_wan.taehv import Taehv
from pipelines.causal_wan.taehv_geometry import TaehvGeometry


@dataclass
class Workshop:
    """Keeps what it has built until another model is asked for."""

    device: torch.device
    dtypes: Sequence[torch.dtype]
    package: Package | None
    attention: Callable[[torch.dtype], str]
    """Backend of ours for a number format."""
    compiled: bool = False
    _model: Model | None = None
    _sides: dict[torch.dtype, tuple[OurModels, PublishedModels | None]] = field(default_factory=dict)
    _codecs: dict[tuple[str, torch.dtype], int] = field(default_factory=dict)
    _dit_bytes: dict[torch.dtype, int] = field(default_factory=dict)

    def contenders(self, case: Case) -> list[Contender]:
        """Ours and the published ones in each number format."""
        if case.model != self._model:
            self._clear()
            self._model = case.model
        found = []
        for dtype in self.dtypes:
            ours, published = self._models(case, dtype)
            weights = self._dit_bytes[dtype] + self._codecs[case.codec, dtype]
            found.append(Contender(Ours(ours, case), weights))
            if published is not None and _can_decode(case, dtype):
                found.append(Contender(Published(published, case), weights))
        return found

    def _clear(self) -> None:
        self._sides.clear()
        self._codecs.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _models(self, case: Case, dtype: torch.dtype) -> tuple[OurModels, PublishedModels | None]:
        if dtype not in self._sides:
            self._sides[dtype] = self._built(case.model, dtype)
        ours, published = self._sides[dtype]
        if (case.codec, dtype) not in self._codecs:
            taehv = None if case.codec == "wan" else self._taehv(dtype)
            wan_vae = None if case.codec == "taehv" else self._wan_vae(dtype)
            ours.add_codec(case.codec, taehv, wan_vae)
            if published is not None:
                published.add_codec(case.codec, taehv, wan_vae)
            self._codecs[case.codec, dtype] = weights_bytes([*(taehv or {}).values(), *(wan_vae or {}).values()])
        return ours, published

    def _built(self, model: Model, dtype: torch.dtype) -> tuple[OurModels, PublishedModels | None]:
        published = None
        if self.package is None:
            ours = random_dit(model.dit, self.device, dtype)
        else:
            wan = random_like(empty_dit(self.package, model.dit), self.device, dtype)
            published = PublishedModels(self.package, model.dit, wan, self.device)
            ours = from_wan(wan, model.dit)
        self._dit_bytes[dtype] = weights_bytes(ours.values())
        attention = self.attention(dtype)
        return OurModels(model.dit, ours, self.device, attention=attention, compiled=self.compiled), published

    def _taehv(self, dtype: torch.dtype) -> Weights:
        with torch.device("meta"):
            empty = Taehv(TaehvGeometry())
        return random_like(empty, self.device, dtype)

    def _wan_vae(self, dtype: torch.dtype) -> Weights:
        return random_like(self._empty_wan_vae(), self.device, dtype)

    def _empty_wan_vae(self) -> Any:
        if self.package is not None:
            return empty_wan_vae(self.package)
        # diffusers is not everywhere, and only Wan's VAE needs it
        from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan  # noqa: PLC0415

        from pipelines.causal_wan.wan_vae_geometry import WanVaeGeometry  # noqa: PLC0415

        with torch.device("meta"):
            return AutoencoderKLWan(**WanVaeGeometry().config())


def lacking(codec: str) -> str | None:
    """What a codec needs and this machine has not, in words."""
    if codec != "taehv" and importlib.util.find_spec("diffusers") is None:
        return "needs diffusers, which is not installed"
    return None


def _can_decode(case: Case, dtype: torch.dtype) -> bool:
    """The published package feeds Wan's decoder bfloat16, whatever its weights are."""
    return case.codec != "wan" or dtype == torch.bfloat16
