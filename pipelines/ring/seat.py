"""Who sits where in a ring over a preset's models. Needs no torch: that is for the processes in which the ranks run."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.part import Part
from pipelines.registry import Choices, Preset
from pipelines.ring.arrangement import Arrangement
from pipelines.ring.split import even
from streamgen.core import Flow
from streamgen.errors import PresetError

_BUILD = "pipelines.ring.build"


def part_of(arrangement: Arrangement, rank: int) -> Part:
    """What a rank holds at first."""
    return Part(arrangement.layers(rank), first=rank == 0, last=rank == arrangement.ranks - 1)


@dataclass(frozen=True)
class Seat:
    """One rank's place in a ring."""

    preset: Preset
    rank: int
    devices: tuple[str, ...]
    choices: Choices
    arrangement: Arrangement
    fixed: bool = False
    """Whether blocks stay where they are."""

    @property
    def part(self) -> Part:
        """What it holds at first."""
        return part_of(self.arrangement, self.rank)

    @property
    def own(self) -> Choices:
        """The choices for its device. Ranks on CPUs share the cores."""
        device = self.devices[self.rank]
        beside = sum(other == "cpu" for other in self.devices)
        threads = self.choices.threads or (max(1, (os.cpu_count() or 1) // beside) if device == "cpu" else 0)
        return replace(self.choices, device=device, threads=threads)


def seats(preset: Preset, devices: Sequence[str], choices: Choices, blocks: Sequence[int] = ()) -> tuple[Seat, ...]:
    """One for each device, with so many blocks for good, or at first evenly spread.

    Raises PresetError where the preset cannot be spread so, or over so many devices.
    """
    if "dit" not in preset.settings:
        raise PresetError(f"{preset.name} has no transformer to spread over several devices; give it one with --device")
    layers = DiTGeometry.from_settings(preset.settings["dit"]).layers
    if len(devices) > layers:
        raise PresetError(f"{preset.name} has {layers} blocks, too few for {len(devices)} devices")
    if blocks and sum(blocks) != layers:
        raise PresetError(f"{preset.name} has {layers} blocks, not {'+'.join(map(str, blocks))} = {sum(blocks)}")
    arrangement, fixed = Arrangement(tuple(blocks) or even(layers, len(devices))), bool(blocks)
    return tuple(Seat(preset, rank, tuple(devices), choices, arrangement, fixed) for rank in range(len(devices)))


def lead(seat: Seat, rendezvous: str) -> Flow[Any]:
    """Runs the first rank: the pipeline over all of them. Raises StreamgenError."""
    pipeline: Flow[Any] = importlib.import_module(_BUILD).lead(seat, rendezvous)
    return pipeline


def follow(seat: Seat, rendezvous: str) -> None:
    """Runs a rank behind the first, until that one says stop. Raises StreamgenError."""
    importlib.import_module(_BUILD).follow(seat, rendezvous)
