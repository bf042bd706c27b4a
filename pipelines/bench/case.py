"""What is measured: a geometry at a size, with so many steps, one codec, and a way of denoising."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry, SamplerGeometry
from pipelines.causal_wan.noise import NoiseGeometry
from pipelines.registry import PRESETS
from streamgen.errors import PresetError

Codecs = Literal["taehv", "paired", "wan"]
"""taehv: TAEHV both ways; paired: Wan's encoder, TAEHV's decoder (the published package's `use_taehv`); wan: both."""
Denoising = Literal["sequential", "batch"]
"""sequential: one pass of one row for each step of a chunk; batch: one pass, with a row for each chunk in flight."""

WAN = "wan-1.3b"
"""The preset whose settings a geometry of one's own starts from."""
SMALL = {"dim": 256, "layers": 8}
"""Of the comparison that runs on two cores."""


@dataclass(frozen=True)
class Model:
    """A preset's geometry, whole or shrunk, and the settings that go with it."""

    name: str
    dit: DiTGeometry
    cache: CacheGeometry
    sampler: SamplerGeometry
    noise: NoiseGeometry

    @classmethod
    def of_preset(cls, preset: str, changes: Mapping[str, Any]) -> Model:
        """Preset `preset` with `changes` to its DiT's geometry. Raises PresetError."""
        if preset not in PRESETS:
            raise PresetError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        settings = PRESETS[preset].settings
        if "dit" not in settings:
            raise PresetError(f"{preset} has no model")
        dit = _changed(DiTGeometry.from_settings(settings["dit"]), changes)
        if dit.cond_channels or dit.prediction != "flow":
            raise PresetError(f"{preset} has a codec and a condition of its own; give a Wan preset or --dim")
        if dit.dim % dit.heads:
            raise PresetError(f"dim {dit.dim} does not part into {dit.heads} heads")
        return cls(
            name="-".join([preset, *(f"{name}{value}" for name, value in changes.items())]),
            dit=dit,
            cache=CacheGeometry(**settings["cache"]),
            sampler=SamplerGeometry.from_settings(settings["sampler"]),
            noise=NoiseGeometry(**settings["noise"]),
        )


@dataclass(frozen=True)
class Case:
    """One line of the report."""

    model: Model
    width: int
    height: int
    """Pixels."""
    steps: int
    codec: Codecs
    denoising: Denoising

    @property
    def name(self) -> str:
        return f"{self.model.name} {self.width}x{self.height} {self.steps}-step {self.codec} {self.denoising}"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of a latent frame."""
        _, rows, columns = self.model.dit.patch
        return self.height // (8 * rows), self.width // (8 * columns)

    @property
    def tokens(self) -> int:
        """Of a latent frame."""
        return self.grid[0] * self.grid[1]

    @property
    def rows(self) -> int:
        """Rows of one pass of the DiT."""
        return self.steps if self.denoising == "batch" else 1


def _changed(dit: DiTGeometry, changes: Mapping[str, Any]) -> DiTGeometry:
    """A width of one's own brings heads of 128 channels, as in every Wan, and a feed-forward four times as wide."""
    if "dim" in changes:
        dit = replace(dit, dim=changes["dim"], heads=max(changes["dim"] // 128, 1), ffn_dim=4 * changes["dim"])
    return replace(dit, **changes)
