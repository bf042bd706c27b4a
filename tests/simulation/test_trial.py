from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pipelines.fake import FAKE_SPEC, FakePipeline
from streamgen.core import Params
from streamgen.engine import StageTimes
from streamgen.scheduler.cost import Shape
from streamgen.simulation.contender import CONTENDERS
from streamgen.simulation.device import Device, cost_model
from streamgen.simulation.run import Run, simulate
from streamgen.simulation.trace import Source, Visit
from streamgen.simulation.trial import Bench, Measured, Trial

SHAPE = Shape(4, 64, 64)
COST = cost_model(SHAPE, {"transfer": (0.0, 0.01), "encode": (0.0, 0.1), "denoise": (0.1, 0.1), "decode": (0.0, 0.2)})
DEVICE = Device(COST, depth=2)
RUN = Run(
    CONTENDERS["deadline"],
    [Visit("a", Params(width=64, height=64), Source(16.0), 0.0, 3.0)],
    DEVICE,
    seconds=3.0,
    warm_up_s=1.0,
    spec=FAKE_SPEC,
)


def test_what_was_measured_becomes_a_device_that_takes_as_long() -> None:
    batches = [
        Measured(1.0, 1.75, SHAPE, StageTimes(0.02, 0.1, 0.4, 0.2, 1, 2, 2, 1)),
        Measured(1.5, 2.5, SHAPE, StageTimes(0.01, 0.2, 0.4, 0.1, 1, 2, 2, 1)),
    ]
    device = Trial(simulate(RUN), COST, batches).device(DEVICE)
    assert device.replayed[0].factors == pytest.approx((2.0, 1.0, 1.0, 1.0))
    assert device.replayed[1].factors == pytest.approx((1.0, 2.0, 1.0, 0.5))
    # the first could begin when it was submitted, the second when the first was done
    assert [batch.beside_s for batch in device.replayed] == pytest.approx([0.05, 0.05])


async def test_the_same_run_goes_through_a_real_engine() -> None:
    async with Bench(FakePipeline, DEVICE) as bench:
        trial = await bench.tried(replace(RUN, spec=bench.engine.spec))
    assert trial.outcome.sessions == 1
    assert trial.outcome.goodput_fps > 0
    assert trial.cost.lines
    simulated = replace(RUN, device=trial.device(DEVICE), cost=trial.cost)
    assert (await asyncio.to_thread(simulate, simulated)).goodput_fps > 0
