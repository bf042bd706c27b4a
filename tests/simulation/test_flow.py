"""Sessions and jobs on several devices in a row, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest

from streamgen.core import Params
from streamgen.jobs.job import Job
from streamgen.mediafile import Picture
from streamgen.metrics import Metrics
from streamgen.scheduler.loop import Loop
from streamgen.simulation import virtual
from streamgen.simulation.contender import CONTENDERS
from streamgen.simulation.device import Device
from streamgen.simulation.engine import SimulatedEngine, blank
from streamgen.simulation.planning import Question, sessions_per_device
from streamgen.simulation.run import Run, simulate
from streamgen.simulation.sweep import planned
from streamgen.simulation.trace import steady
from streamgen.simulation.virtual import LoopClock
from streamgen.simulation.workload import DEVICE, SPEC, known, offered

SLOW = replace(DEVICE, speed=0.25, hiccups=0.0)


def most_sessions(device: Device) -> int:
    return sessions_per_device(Question(SPEC.defaults, device, SPEC, seconds=12.0)).sessions


def test_devices_in_a_row_take_as_many_times_the_sessions() -> None:
    """A little more, as one device has not the time for another whole session; and what they take is theirs to give."""
    one = most_sessions(SLOW)
    for stages in (2, 4):
        row = SLOW.in_a_row(stages)
        most = most_sessions(row)
        assert 0.9 * stages * one <= most <= 1.3 * stages * one
        assert 0.85 <= offered([SPEC.defaults] * most, row) <= 1.1


@pytest.mark.parametrize("stages", [2, 4])
def test_promises_are_kept_by_devices_in_a_row(stages: int) -> None:
    for load in (0.7, 1.5):
        its = simulate(planned(CONTENDERS["full"], "jittery", load, 16.0, 3, SLOW.in_a_row(stages)))
        assert its.sessions
        assert its.miss_rate < 0.03
        assert its.growth < 100


def test_through_an_empty_flow_a_chunk_takes_what_it_takes_on_one_device() -> None:
    """One session: several devices neither speed its chunks up nor slow them down."""
    visits = steady([SPEC.defaults], 8.0, Random(1))
    one, row = (
        simulate(Run(CONTENDERS["deadline"], visits, replace(device, spread=0.0), 8.0, warm_up_s=2.0))
        for device in (SLOW, SLOW.in_a_row(4))
    )
    assert (one.miss_rate, row.miss_rate) == (0.0, 0.0)
    assert row.p50 == pytest.approx(one.p50, abs=1.0)


def test_a_job_flows_whole_and_in_order_and_nothing_is_run_to_finish_it() -> None:
    """Several of its chunks are under way at once; at its end there is nothing held that would have to be finished."""
    device = replace(SLOW, spread=0.0).in_a_row(3)
    largest, empty = 0, 0

    class Watched(SimulatedEngine):
        under_way = 0

        async def run(self, chunks):  # type: ignore[no-untyped-def]
            nonlocal largest, empty
            self.under_way += 1
            largest = max(largest, self.under_way)
            empty += sum(not chunk.pixels for chunk in chunks)
            try:
                return await super().run(chunks)
            finally:
                self.under_way -= 1

    async def run() -> list[int]:
        clock, metrics = LoopClock(asyncio.get_running_loop()), Metrics()
        engine = Watched(device, clock, Random(1))
        loop = Loop(engine, clock, metrics, device.capacity, cost=known(device), depth=device.depth)
        job = Job(
            "job",
            Params(),
            SPEC,
            scheduler=loop,
            clock=clock,
            metrics=metrics,
            client="",
            time_base=Fraction(1, 16),
            expected=70,
        )
        task = asyncio.create_task(loop.run())
        loop.enter(job)
        shown, read = list[int](), 0
        while not job.complete:
            while job.wants:
                count = min(job.wants, 70 - read)
                pictures = [Picture(blank(1, 192, 320)[0], read + i, 1) for i in range(count)]
                read += count
                job.put(pictures, at_end=read == 70)
            shown += [picture.pts for picture in job.take_results()]
            if not job.complete:
                await job.news()
        task.cancel()
        await asyncio.wait([task])
        return shown

    assert virtual.run(run()) == list(range(70))
    assert largest == 3
    assert empty == 0
