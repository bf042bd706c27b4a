"""The preset `fake`: FakePipeline or, with several stages, FakeFlow, with costs that can be changed from outside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from pipelines.fake import FAKE_SPEC, FakeCost, FakePipeline
from pipelines.fake_flow import FakeFlow
from pipelines.registry import Choices, Preset
from streamgen.errors import PresetError

COSTS = tuple(field.name for field in fields(FakeCost) if field.name.endswith("_s"))

COUNTS = ("stages", "flight")

MOST = 64
"""Stages, or chunks of a stream under way."""


@dataclass(frozen=True, slots=True)
class _Wishes:
    costs: Mapping[str, float]
    stages: int
    flight: int


def build_fake(preset: Preset, choices: Choices, environ: Mapping[str, str] = os.environ) -> FakePipeline:
    """The preset. Its costs are its own, changed by $STREAMGEN_FAKE_COST: "step_s=0.01,decode_s=0". With "stages=4" in
    it chunks flow through four stages, up to four of a stream at once, or as many as "flight=2" says.

    Raises PresetError for costs that are none, and for LoRA files, which there is no model to merge into.
    """
    if choices.loras:
        raise PresetError(f"{preset.name} has no model that a LoRA file could be merged into")
    wishes = _wishes(environ.get("STREAMGEN_FAKE_COST", ""))
    cost = FakeCost(**{**preset.settings["cost"], **wishes.costs})
    spec = replace(FAKE_SPEC, defaults=preset.defaults, light_vae=cost.light_decode_s > 0, device=f"fake {cost}")
    if wishes.stages == wishes.flight == 1:
        return FakePipeline(spec, cost)
    device = f"{spec.device} on {wishes.stages} stages"
    return FakeFlow(replace(spec, device=device, stages=wishes.stages, flight=wishes.flight), cost)


def _wishes(text: str) -> _Wishes:
    costs: dict[str, float] = {}
    counts: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name in COSTS and (seconds := _number(value)) is not None and 0 <= seconds < 3600:
            costs[name] = seconds
        elif name in COUNTS and value.isdecimal() and 1 <= int(value) <= MOST:
            counts[name] = int(value)
        else:
            known = f"NAME=SECONDS with {', '.join(COSTS)}, or of NAME=COUNT with {' and '.join(COUNTS)}"
            raise PresetError(f"STREAMGEN_FAKE_COST: {part!r} is none of {known}")
    stages = counts.get("stages", 1)
    return _Wishes(costs, stages, counts.get("flight", stages))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
