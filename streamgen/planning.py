"""How `streamgen doctor` would place the presets on GPUs: those of this machine, or others that one thinks of."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import pipelines
from pipelines.causal_wan.device_name import device_name
from pipelines.causal_wan.geometry import CHUNK
from pipelines.causal_wan.memory import shares_of
from pipelines.registry import Preset
from pipelines.ring.placement import plan
from pipelines.ring.replica import Device, Load
from pipelines.ring.roofline import CHIPS, chip_of, estimate, slowest_with
from streamgen.core import Params
from streamgen.costfile import CostFile
from streamgen.doctor import Finding, Gpu, Placements
from streamgen.errors import ConfigError, ParamsError
from streamgen.scheduler.cost import Shape

MOST_GPUS = 64

LEGEND = (
    "placements are replicas x GPUs in each: a service for every replica, with --devices naming its GPUs in a row."
    " Estimates come from what makers say of their chips, and are rough; --gpus 4x80 --sessions 8 plans for other GPUs"
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be planned for. None: what each preset does by default."""

    preset: str | None = None
    sessions: int = 1
    fps: float | None = None
    steps: int | None = None
    slo_ms: float | None = None

    def __post_init__(self) -> None:
        if self.sessions < 1:
            raise ConfigError(f"--sessions must be at least 1, not {self.sessions}")
        if self.preset is not None and self.preset not in pipelines.PRESETS:
            raise ConfigError(f"no preset {self.preset!r}; there are {', '.join(pipelines.PRESETS)}")
        for preset in self.presets():
            self.params(preset)

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Wish:
        """What the command line says. Raises ConfigError."""
        return cls(arguments.preset, arguments.sessions, arguments.fps, arguments.steps, arguments.slo_ms)

    def presets(self) -> list[Preset]:
        """Those that have a model to be placed."""
        named = [pipelines.PRESETS[self.preset]] if self.preset else pipelines.PRESETS.values()
        return [preset for preset in named if "dit" in preset.settings]

    def params(self, preset: Preset) -> Params:
        """A session's. Raises ConfigError for what no session may ask for."""
        asked = {"fps": self.fps, "steps": self.steps, "slo_ms": self.slo_ms}
        try:
            return preset.defaults.updated({name: value for name, value in asked.items() if value is not None})
        except ParamsError as error:
            raise ConfigError(f"--{error.message.replace('_', '-', 1)}") from None

    def load(self, preset: Preset) -> Load:
        params = self.params(preset)
        return Load(self.sessions, params.fps, params.steps, params.slo_ms / 1e3)

    def words(self, preset: Preset) -> str:
        """The load, such as `2 sessions of 16 fps, 1 step, 1000 ms`."""
        params, many = self.params(preset), "s" if self.sessions > 1 else ""
        steps = f"{params.steps} step{'s' if params.steps > 1 else ''}"
        return f"{self.sessions} session{many} of {params.fps:g} fps, {steps}, {params.slo_ms:g} ms"


def of_this_machine(arguments: argparse.Namespace) -> Placements:
    """For its GPUs: a line or two for each preset. Raises ConfigError."""
    wish, costs = Wish.of(arguments), arguments.cost_folder

    def placements(gpus: Sequence[Gpu]) -> Iterator[Finding]:
        yield Finding("note", LEGEND)
        for preset in wish.presets():
            devices = [_device(gpu, preset, wish.params(preset), costs) for gpu in gpus]
            yield from list(_told(preset, wish, devices))[:2]

    return placements


def of_others(arguments: argparse.Namespace) -> Iterator[Finding]:
    """For the GPUs that the command line names: everything that was looked at. Raises ConfigError."""
    wish, gpus = Wish.of(arguments), gpus_of(arguments.gpus)
    yield Finding("note", f"plans for {_words(gpus)}")
    yield Finding("note", LEGEND)
    for preset in wish.presets():
        yield from _told(preset, wish, [_device(gpu, preset, wish.params(preset), None) for gpu in gpus])


def gpus_of(text: str) -> list[Gpu]:
    """The GPUs of a list such as `4x80` (GB), `2xH100,L4`. Raises ConfigError."""
    gpus: list[Gpu] = []
    for item in text.split(","):
        found = re.fullmatch(r"(?:(\d{1,4})\s*x\s*)?(.+)", item.strip(), re.IGNORECASE)
        if found is None:
            raise ConfigError(f"--gpus is a list such as 4x80 (GB) or 2xH100,L4, not {text[:80]!r}")
        gpus += [_gpu(found[2])] * int(found[1] or 1)
    if not 1 <= len(gpus) <= MOST_GPUS:
        raise ConfigError(f"--gpus names 1 to {MOST_GPUS} of them, not {len(gpus)}")
    return gpus


def _gpu(kind: str) -> Gpu:
    size = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)\s*(?:GB)?", kind, re.IGNORECASE)
    if size is not None and float(size[1]) > 0:
        return Gpu(f"GPU of {size[1]} GB", int(float(size[1]) * 1e9))
    known = [chip for chip in CHIPS if re.fullmatch(chip.name.replace(" ", "[ -]?"), kind, re.IGNORECASE)]
    if not known:
        names = ", ".join(chip.name for chip in CHIPS)
        raise ConfigError(f"--gpus: {kind[:40]!r} is no size such as 80 (GB), and none of {names}")
    return Gpu(known[0].name, int(known[0].gigabytes * 1e9))


def _words(gpus: Sequence[Gpu]) -> str:
    counted = [(gpu, len(list(group))) for gpu, group in groupby(gpus)]
    return ", ".join(f"{count} x {gpu.name}{_taken_for(gpu)}" for gpu, count in counted)


def _taken_for(gpu: Gpu) -> str:
    return "" if chip_of(gpu.name) else f" (as fast as {slowest_with(gpu.total_bytes).name})"


def _device(gpu: Gpu, preset: Preset, params: Params, costs: Path | None) -> Device:
    """With the times that a service measured on such a GPU, or else with estimated ones."""
    chip = chip_of(gpu.name) or slowest_with(gpu.total_bytes)
    device = estimate(gpu.name, gpu.total_bytes, chip, preset.settings, params)
    if costs is None:
        return device
    shape = Shape(CHUNK, params.width, params.height)
    for compiled in (False, True):
        model = CostFile(costs, preset.name, device_name(gpu.name, "bfloat16", compiled=compiled)).load()
        if ("encode", shape) in model.lines:
            took = model.costs(shape, 1, 1, 1)
            return replace(device, row_s=took.denoise, encode_s=took.encode, decode_s=took.decode, estimated=False)
    return device


def _told(preset: Preset, wish: Wish, devices: Sequence[Device]) -> Iterator[Finding]:
    """The placement of a preset, then why it is none of the others."""
    params, load = wish.params(preset), wish.load(preset)
    placement = plan(devices, shares_of(preset.settings, params), load)
    first, *others = placement.reasons
    known = "estimated" if any(device.estimated for device in devices) else "measured"
    head = f"placement of {preset.name} for {wish.words(preset)} ({known})"
    served = placement.best is not None and placement.best.sessions >= load.sessions
    yield Finding("ok" if served else "note", f"{head}: {'' if placement.best else 'none; '}{first}")
    yield from (Finding("note", f"  not {other}") for other in others)
