"""Sessions that are unlike each other, as many as make a given load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from streamgen.core import Params, PipelineSpec
from streamgen.scheduler import demand
from streamgen.scheduler.cost import CostModel, Shape
from streamgen.scheduler.demand import Demand, Task
from streamgen.scheduler.quality import asked
from streamgen.simulation.device import Device, cost_model

FPS = (8.0, 10.0, 12.0, 15.0, 16.0, 20.0, 24.0, 25.0, 30.0)
STEPS = (1, 2, 2, 3, 4)
SIZES = ((320, 192), (320, 192), (224, 128))
SLO_MS = (300.0, 1500.0)
"""Least and most."""

SPEC = PipelineSpec(
    name="simulated",
    chunk_frames=4,
    first_chunk_frames=4,
    size_multiple=16,
    max_pixels=1920 * 1080,
    native_fps=16.0,
    bytes_per_session=0,
    defaults=Params(),
)

SHAPE = Shape(SPEC.chunk_frames, SPEC.defaults.width, SPEC.defaults.height)

DEVICE = Device(
    cost_model(
        SHAPE,
        {
            "transfer": (0.0003, 0.0004),
            "encode": (0.0010, 0.0016),
            "denoise": (0.0020, 0.0036),
            "decode": (0.0012, 0.0024),
        },
    ),
    hiccups=0.002,
    depth=2,
)
"""As fast as a large GPU is with a model of 1.3 billion parameters, about; batches of four save a fifth."""


def drawn(random: Random, device: Device, load: float, spec: PipelineSpec = SPEC) -> tuple[list[Params], Device]:
    """Sessions whose demand at the quality that they ask for is `load` times what the device can do.

    The device is made a little faster or slower than `device`, so that the load is met exactly.
    """
    wanted: list[Params] = []
    while not wanted or offered(wanted, device, spec) < load:
        params = _one(random, spec)
        if _has_room(params, device, spec):
            wanted.append(params)
    # the costs of tasks are in proportion to the device's, but for their number of frames, which is whole
    for _ in range(20):
        device = replace(device, speed=device.speed * offered(wanted, device, spec) / load)
    return wanted, device


def paced(wanted: Sequence[Params], device: Device, load: float, spec: PipelineSpec = SPEC) -> list[Params]:
    """The sessions with frame rates at which they make this load."""
    paced_ = list(wanted)
    for _ in range(20):  # as above
        factor = load / offered(paced_, device, spec)
        paced_ = [params.updated({"fps": min(60.0, max(1.0, params.fps * factor))}) for params in paced_]
    return paced_


def offered(wanted: Sequence[Params], device: Device, spec: PipelineSpec = SPEC) -> float:
    """Device time that the sessions ask for, per second."""
    return sum(task.cost / task.period for task in chunks(wanted, device, spec))


def chunks(wanted: Sequence[Params], device: Device, spec: PipelineSpec = SPEC) -> list[Task]:
    """What a chunk of each costs at best, and how often there is one, at the quality that they ask for."""
    return demand.tasks([(_demand(params, spec), asked(params)) for params in wanted], device.scaled, device.capacity)


def known(device: Device, spec: PipelineSpec = SPEC) -> CostModel:
    """What a service knows of the device once it is warm."""
    return device.warmed_up([(Shape(spec.chunk_frames, spec.defaults.width, spec.defaults.height), 2)])


def _has_room(params: Params, device: Device, spec: PipelineSpec) -> bool:
    """Whether its promise can be kept beside some other session: on no device is everything possible."""
    heaviest = replace(params, slo_ms=SLO_MS[1], steps=max(STEPS), width=SIZES[0][0], height=SIZES[0][1], fps=FPS[0])
    pair = [_demand(params, spec), _demand(heaviest, spec)]
    return demand.levels(pair, device.scaled, device.capacity, 1.0) is not None


def _one(random: Random, spec: PipelineSpec) -> Params:
    width, height = random.choice(SIZES)
    least, most = SLO_MS
    slo_ms = round(least * (most / least) ** random.random(), 1)
    changes = {"width": width, "height": height, "slo_ms": slo_ms}
    return spec.defaults.updated({**changes, "fps": random.choice(FPS), "steps": random.choice(STEPS)})


def _demand(params: Params, spec: PipelineSpec) -> Demand:
    return Demand("", (asked(params),), spec.chunk_frames, params.slo_ms / 1000)
