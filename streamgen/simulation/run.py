"""A run: a loop on a simulated device, and clients that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from streamgen.core import Clock, PipelineSpec
from streamgen.metrics import Metrics
from streamgen.scheduler.cost import CostModel
from streamgen.scheduler.loop import Loop
from streamgen.simulation import virtual
from streamgen.simulation.client import Client
from streamgen.simulation.contender import Contender
from streamgen.simulation.device import Device
from streamgen.simulation.engine import SimulatedEngine
from streamgen.simulation.outcome import Outcome, outcome
from streamgen.simulation.trace import Visit
from streamgen.simulation.virtual import LoopClock
from streamgen.simulation.workload import SPEC, chunks, known

LOOK_S = 0.5
"""Rungs are looked at this often."""

MAX_WAITING = 16


class Notes(Metrics):
    """Keeps only what the scheduler's decisions took."""

    def __init__(self) -> None:
        super().__init__()
        self.plans_s: list[float] = []

    def came_in(self) -> None:
        """Not counted here."""

    def went_out(self, latency_s: float, missed: bool) -> None:
        """Not counted here."""

    def dropped(self, reason: str, count: int = 1) -> None:
        """Not counted here."""

    def ran_batch(self, seconds: float, chunks: int, stages: Mapping[str, float]) -> None:
        """Not counted here."""

    def governed(self, rungs: Iterable[int], *, queued: int, promised: float, pressure: float, error: float) -> None:
        """Not counted here."""

    def planned(self, seconds: float) -> None:
        """Notes it."""
        self.plans_s.append(seconds)


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be simulated."""

    contender: Contender
    visits: Sequence[Visit]
    device: Device
    seconds: float = 60.0
    warm_up_s: float = 10.0
    """Of these seconds do not count: rungs, queue and costs settle."""
    seed: int = 0
    spec: PipelineSpec = SPEC
    cost: CostModel | None = None
    """What the scheduler knows of costs at first; by default what warming up tells."""
    devices: int = 1
    """Such devices, each with a scheduler of its own; who comes goes to the one that has the fewest sessions."""


def simulate(run: Run) -> Outcome:
    """The run in virtual time. The same run has the same outcome, but for what planning took."""
    return virtual.run(_simulated(run))


async def _simulated(run: Run) -> Outcome:
    clock, notes = LoopClock(asyncio.get_running_loop()), Notes()
    return await staged(run, [_loop(run, clock, notes, number) for number in range(run.devices)], clock, notes)


async def staged(run: Run, loops: Sequence[Loop], clock: Clock, notes: Notes) -> Outcome:
    """Runs the loops, lets the clients come and go, and counts; on whatever clock and engines the loops are."""

    def door() -> Loop:
        return min(loops, key=lambda loop: len(loop.roster) + loop.roster.waiting)

    for loop in loops:
        loop.roster.governor = run.contender.governor
    began = clock.now()
    clients = [
        Client(visit, began, run.spec, door, clock, notes, run.contender, Random(f"{visit.name} {run.seed}"))
        for visit in run.visits
    ]
    tasks = [asyncio.create_task(loop.run(), name="loop") for loop in loops]
    tasks += [asyncio.create_task(client.run(), name="client") for client in clients]
    result = await _measured(run, clients, notes)
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
    return result


def _loop(run: Run, clock: LoopClock, notes: Notes, number: int) -> Loop:
    device = run.device
    engine = SimulatedEngine(device, clock, Random(f"engine {number} {run.seed}"))
    cost = run.cost if run.cost is not None else known(device, run.spec)
    return Loop(
        engine,
        clock,
        notes,
        device.capacity,
        cost=cost,
        depth=device.depth,
        max_waiting=MAX_WAITING,
        planner=run.contender.planner,
    )


async def _measured(run: Run, clients: Sequence[Client], notes: Notes) -> Outcome:
    await asyncio.sleep(run.warm_up_s)
    for client in clients:
        client.mark()
    notes.plans_s.clear()
    rest = run.seconds - run.warm_up_s
    for _ in range(round(rest / LOOK_S)):
        await asyncio.sleep(LOOK_S)
        for client in clients:
            client.look()
    asked = chunks([visit.params for visit in run.visits], run.device, run.spec)
    worth = [task.cost / (task.period * visit.params.fps) for task, visit in zip(asked, run.visits, strict=True)]
    return outcome(clients, worth, rest, notes.plans_s)
