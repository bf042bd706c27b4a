"""What holds of every run, on drawn sessions, devices and loads."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamgen.engine import BatchDone, ChunkWork
from streamgen.scheduler import policy
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import CostModel
from streamgen.scheduler.policy import HANDOVER_S, Plan, SessionView
from streamgen.session import Session
from streamgen.simulation import run as run_module
from streamgen.simulation.client import Client
from streamgen.simulation.contender import CONTENDERS, Contender
from streamgen.simulation.device import Device
from streamgen.simulation.engine import SimulatedEngine
from streamgen.simulation.outcome import Outcome
from streamgen.simulation.run import Run, simulate
from streamgen.simulation.sweep import planned
from streamgen.simulation.workload import DEVICE
from tests.support.service import settled

few = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)

SMALL = replace(DEVICE, speed=0.4)
"""Takes few sessions, which are quickly simulated."""

loads = st.sampled_from([0.4, 0.9, 1.2, 2.5])
seeds = st.integers(0, 10_000)
devices = st.builds(
    lambda speed, batch, overlap, spread: replace(
        DEVICE, speed=speed, max_batch=batch, overlap=overlap, depth=3 if overlap else 2, spread=spread
    ),
    st.sampled_from([0.3, 0.6]),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([0.0, 0.05, 0.2]),
)
flows = st.builds(
    lambda stages, speed, batch, spread: replace(
        DEVICE.in_a_row(stages), speed=speed, max_batch=batch, spread=spread, hiccups=0.01
    ),
    st.integers(1, 5),
    st.sampled_from([0.1, 0.2]),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.2]),
)
names = st.sampled_from(["deadline", "full", "admission"])
traces = st.sampled_from(["jittery", "bursty", "churn"])


class WatchedEngine(SimulatedEngine):
    """Notes which chunks were begun, and which came out."""

    def __init__(self, device: Device, *args: object) -> None:
        super().__init__(device, *args)  # type: ignore[arg-type]
        self.flight = device.flight
        self.most = 0
        """Batches under way at once."""
        self.begun: dict[str, list[int]] = defaultdict(list)
        self.ended: dict[str, list[int]] = defaultdict(list)
        self.largest = 0
        self.under_way: Counter[str] = Counter()
        self.batches = 0
        made.append(self)

    async def run(self, chunks: Sequence[ChunkWork]) -> BatchDone:
        sessions = [chunk.session for chunk in chunks]
        assert len(set(sessions)) == len(sessions)
        self.under_way.update(sessions)
        assert all(self.under_way[session] <= self.flight for session in sessions)
        self.batches += 1
        self.most = max(self.most, self.batches)
        self.largest = max(self.largest, len(chunks))
        for chunk in chunks:
            if chunk.pixels:
                self.begun[chunk.session].append(chunk.tag)
        try:
            done = await super().run(chunks)
        finally:
            self.under_way.subtract(sessions)
            self.batches -= 1
        for answer in done.chunks:
            self.ended[answer.session].append(answer.tag)
        return done


class WatchedClient(Client):
    """Is kept."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        clients.append(self)

    @property
    def session(self) -> Session | None:
        return self._session


made: list[WatchedEngine] = []
clients: list[WatchedClient] = []


def watched(run: Run) -> tuple[Outcome, WatchedEngine]:
    made.clear()
    clients.clear()
    with (
        patch.object(run_module, "SimulatedEngine", WatchedEngine),
        patch.object(run_module, "Client", WatchedClient),
    ):
        outcome = simulate(run)
    return outcome, made[0]


@few
@given(names, traces, loads, seeds, devices | flows)
def test_no_chunk_runs_twice_or_out_of_order_and_the_device_is_not_overcommitted(
    name: str, trace: str, load: float, seed: int, device: object
) -> None:
    run = planned(CONTENDERS[name], trace, load, 8.0, seed, device)  # type: ignore[arg-type]
    _, engine = watched(run)
    assert engine.begun
    for session, tags in engine.begun.items():
        assert tags == sorted(set(tags))  # tags count all chunks that were ever submitted
        ended = engine.ended[session]
        assert ended == sorted(set(ended))
        assert set(ended) <= set(tags)
    assert engine.largest <= run.device.max_batch
    assert engine.most <= run.device.depth
    assert engine.busy_s <= run.seconds + 1.0


@few
@given(names, traces, loads, seeds, flows)
def test_every_frame_of_a_flow_comes_out_once_and_in_its_order(
    name: str, trace: str, load: float, seed: int, device: Device
) -> None:
    run = planned(CONTENDERS[name], trace, load, 8.0, seed, device)
    outcome, engine = watched(run)
    assert engine.begun
    assert outcome.goodput_fps > 0
    for client in clients:
        ids = [shown.frame for shown in client.shown]
        assert ids == sorted(set(ids))
        assert client.session is None or settled(client.session)


@few
@given(st.sampled_from([2, 4]), seeds)
def test_more_stages_do_not_lower_goodput(stages: int, seed: int) -> None:
    """The same sessions on one device and on several in a row: what they do not need of them does no harm."""
    run = planned(CONTENDERS["full"], "jittery", 0.8, 12.0, seed, SMALL)
    more = replace(run, device=run.device.in_a_row(stages))
    assert simulate(more).goodput_fps >= 0.98 * simulate(run).goodput_fps


@few
@given(st.sampled_from([1.0, 2.5]), seeds)
def test_nobody_starves(load: float, seed: int) -> None:
    """Every session gets results in time, and none far fewer than its share, whatever the load: in 20 s, of which some
    are needed to find out who loses most, at least half of it.
    """
    its = simulate(planned(CONTENDERS["deadline"], "jittery", load, 20.0, seed, SMALL))
    assert its.fairness > 0.5


@few
@given(loads, seeds)
def test_a_frame_that_is_given_up_would_have_been_late(load: float, seed: int) -> None:
    """Even if its chunk had run at once and alone; or, for a session that loses frames anyway and has fresher ones in
    its place, in a batch. (That dropping raises no miss is no theorem beyond this: chunks are
    not taken back once they run, so a frame more can mean another frame less. The next test has the sum.)
    """
    late = 0

    def checked(now: float, sessions: Sequence[SessionView], cost: CostModel, capacity: Capacity) -> Plan:
        nonlocal late
        plan = policy.plan(now, sessions, cost, capacity)
        views = {view.session: view for view in sessions}
        for drop in plan.drops:
            view = views[drop.session]
            rates = cost.rates(view.shape)
            (deadline,) = [queued.deadline for queued in view.frames if queued.id == drop.frame]
            chunks = capacity.max_batch if view.lost > policy.STEADY else 1
            load = chunks, view.steps, chunks * view.steps
            margin = policy.MARGIN * rates.error * rates.batch(*load) + HANDOVER_S
            assert deadline < capacity.ends(now, rates, *load)[2] + margin + 1e-9
            late += 1
        return plan

    contender = replace(CONTENDERS["deadline"], planner=checked)
    simulate(planned(contender, "jittery", load, 8.0, seed, SMALL))
    assert late or load < 2


def keep_all(now: float, sessions: Sequence[SessionView], cost: CostModel, capacity: Capacity) -> Plan:
    """The same order, and nothing is given up."""
    return policy.plan(now, [replace(view, batch=True, lost=1.0) for view in sessions], cost, capacity)


@few
@given(loads, seeds)
def test_dropping_does_not_raise_misses(load: float, seed: int) -> None:
    """In all: by no more than half a point, which is what single chunks come to in so short a run."""
    keeping = Contender("keep", "the same order without dropping", keep_all, drops=False)
    with_, without = (
        simulate(planned(contender, "jittery", load, 12.0, seed, SMALL))
        for contender in (CONTENDERS["deadline"], keeping)
    )
    assert with_.miss_rate <= without.miss_rate + 0.005


@few
@given(names, loads, seeds, st.sampled_from([1.1, 1.5, 3.0]))
def test_more_capacity_does_not_lower_goodput(name: str, load: float, seed: int, times: float) -> None:
    """In all: single frames may fare worse, as what runs is not taken back; 2 % are allowed for that."""
    run = planned(CONTENDERS[name], "jittery", load, 12.0, seed, SMALL)
    faster = replace(run, device=replace(run.device, speed=run.device.speed * times))
    assert simulate(faster).goodput_fps >= 0.98 * simulate(run).goodput_fps


def test_virtual_runs_leave_the_real_loop_alone() -> None:
    async def nothing() -> float:
        return asyncio.get_running_loop().time()

    simulate(planned(CONTENDERS["deadline"], "steady", 0.2, 2.0, 1))
    assert asyncio.run(nothing()) > 0
    assert Random(1).random() == Random(1).random()
