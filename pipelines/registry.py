"""The preset table: what can be built, by name. Listing needs no torch; building imports what the preset needs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from streamgen.core import Params, Pipeline
from streamgen.errors import PresetError

TEAM_PRELOAD = ("torch.distributed", "pipelines.ring.build")
"""Modules that every process of a team imports, beside its preset's."""

SPINS = 200
"""Turns that a waiting thread spins before it sleeps: well under a microsecond."""

_FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Choices:
    """How a pipeline is to run on this machine, beside what its preset says."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads, 0 for as many as the machine has cores."""
    attention: str = "auto"
    """A backend of attention.BACKENDS; auto: the fastest of those that are always there."""
    compiled: bool = False
    """Whether the DiT's blocks are compiled when they are first run."""
    loras: tuple[tuple[Path, float], ...] = ()
    """LoRA files to merge into the DiT, each with its strength."""


@dataclass(frozen=True)
class Preset:
    """A named pipeline: where it is built, with which settings, and what to show of it."""

    name: str
    title: str
    description: str
    native_fps: float
    defaults: Params
    styles: tuple[Mapping[str, str], ...]
    """Suggestions for the page: {"name", "prompt"}."""
    builder: str
    """`module:function`, called with (preset, Choices)."""
    settings: Mapping[str, Any]
    """What the builder needs: geometry, weights."""
    folder: Path
    """Where the preset's own files are."""
    preload: tuple[str, ...]
    """Modules that building it takes long to import. None of them uses a GPU, or leaves a thread behind, when it is
    imported: a process that has them can be forked."""


def _load(path: Path) -> Preset:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Preset(
        name=path.stem,
        title=document["title"],
        description=document["description"],
        native_fps=float(document["native_fps"]),
        defaults=Params.parse(document["defaults"]),
        styles=tuple(document.get("styles", ())),
        builder=document["builder"],
        settings=document["settings"],
        folder=_FOLDER / path.stem,
        preload=tuple(document.get("preload", ())),
    )


PRESETS: Mapping[str, Preset] = {path.stem: _load(path) for path in sorted(_FOLDER.glob("*.yaml"))}


def build(
    name: str,
    device: str = "auto",
    threads: int = 0,
    *,
    attention: str = "auto",
    compiled: bool = False,
    loras: Sequence[tuple[Path, float]] = (),
) -> Pipeline[Any]:
    """The pipeline of preset `name`, weights loaded; the rest is described at Choices.

    Raises PresetError for what this preset or this machine cannot do, WeightsError where weights are missing or do not
    fit.
    """
    if name not in PRESETS:
        raise PresetError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    preset = PRESETS[name]
    share_cores()
    module, function = preset.builder.split(":")
    choices = Choices(device, threads, attention, compiled, tuple(loras))
    pipeline: Pipeline[Any] = getattr(importlib.import_module(module), function)(preset, choices)
    return pipeline


def team(
    name: str,
    devices: Sequence[str],
    threads: int = 0,
    *,
    attention: str = "auto",
    compiled: bool = False,
    loras: Sequence[tuple[Path, float]] = (),
    blocks: Sequence[int] = (),
) -> tuple[Callable[[str], Pipeline[Any]], tuple[Callable[[str], None], ...]]:
    """The pipeline of preset `name` over several devices, a process for each: what the first one calls, and the others.

    All are given the path of one file that is not there yet, by which they find each other, and can be pickled. The
    first one's call returns the pipeline, a Flow; the others' calls return when that has ended, and raise
    DeviceLostError where the ring breaks. `blocks`: how many of the transformer's each device has, for good; by default
    they move as it is best. Raises PresetError where the preset cannot be spread over so many devices.
    """
    if name not in PRESETS:
        raise PresetError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    share_cores()
    ring = importlib.import_module("pipelines.ring.seat")
    choices = Choices("auto", threads, attention, compiled, tuple(loras))
    first, *others = ring.seats(PRESETS[name], devices, choices, blocks)
    return partial(ring.lead, first), tuple(partial(ring.follow, seat) for seat in others)


def share_cores() -> None:
    """Has torch's threads spin only briefly where they wait for each other, unless the user chose otherwise: in this
    process, and in those that it starts.

    By default they spin for milliseconds, in place of those that they wait for as soon as another program wants one of
    the cores; a live stream then becomes a slide show. Not to spin at all costs the more when idle.
    The OpenMP runtime (libgomp) reads this when torch is first imported. `build` calls this in time, unless a process
    begins with torch imported already.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
