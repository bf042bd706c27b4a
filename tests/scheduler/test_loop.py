from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from pipelines.fake import FakePipeline, Fault, restyle
from streamgen.core import Params
from streamgen.engine import BatchDone, StageTimes
from streamgen.metrics import Metrics
from streamgen.scheduler.capacity import IDLE, Capacity
from streamgen.scheduler.cost import CostModel, Line, Shape
from streamgen.scheduler.loop import Loop
from streamgen.session import MAX_FAILURES, Session
from streamgen.wire import Restarted, ServerMessage
from tests.support.service import SMALL, InlineEngine, ManualClock, feed, settled

FAULTS = {"bad": Fault("encode"), "refused": Fault("open", "params")}


class Stage:
    """A loop with its engine and some sessions."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.engine = InlineEngine(FakePipeline(faults=FAULTS))
        self.loop = Loop(self.engine, self.clock, Metrics(), Capacity(max_batch=4), **settings)
        self.engine.on_restart = self.loop.restarted
        self.task = asyncio.create_task(self.loop.run())
        self.messages: dict[str, list[ServerMessage]] = {}

    def session(self, name: str, params: Params = SMALL) -> Session:
        told = self.messages[name] = []
        session = Session(
            name,
            params,
            self.engine.spec,
            scheduler=self.loop,
            clock=self.clock,
            metrics=Metrics(),
            notify=told.append,
        )
        self.loop.enter(session)
        session.connected()
        return session

    async def quiet(self) -> None:
        """Until nothing is left to do."""
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
async def stage() -> AsyncIterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(**settings: Any) -> Stage:
        stages.append(Stage(**settings))
        return stages[-1]

    yield make
    for made in stages:
        made.task.cancel()
        await asyncio.wait([made.task])


async def results(session: Session) -> list[tuple[int, np.ndarray]]:
    out = []
    while len(session._outbox):
        finished = await session.finished()
        assert finished is not None
        assert session.hand_over(finished)
        out.append((finished.frame.id, finished.frame.pixels))
    return out


async def test_every_session_gets_its_own_pictures_in_order(stage: Callable[..., Stage]) -> None:
    here = stage()
    sessions = {name: here.session(name, SMALL.updated({"prompt": name})) for name in "abc"}
    for chunk in range(3):
        sources = {name: feed(session, here.clock, 4) for name, session in sessions.items()}
        await here.quiet()
        for name, session in sessions.items():
            got = await results(session)
            assert [number for number, _ in got] == [frame.id for frame in sources[name]]
            wanted = [restyle(frame.pixels, session.params, chunk) for frame in sources[name]]
            assert all((a == b).all() for (_, a), b in zip(got, wanted, strict=True))
    assert any(len(batch) == 3 for batch in here.engine.batches)
    assert all(settled(session) for session in sessions.values())


async def test_one_batch_at_a_time_and_the_newest_frames_meanwhile(stage: Callable[..., Stage]) -> None:
    here = stage()
    session = here.session("a")
    here.engine.gate.clear()
    feed(session, here.clock, 4)
    await here.quiet()
    feed(session, here.clock, 20)
    await here.quiet()
    assert len(here.engine.batches) == 1
    here.engine.gate.set()
    await here.quiet()
    assert [number for number, _ in await results(session)] == [0, 1, 2, 3, *range(16, 24)]
    assert session.stats().drops == {"overload": 12}


async def test_a_failing_session_does_not_harm_another(stage: Callable[..., Stage]) -> None:
    here = stage()
    good, bad = here.session("good"), here.session("bad", SMALL.updated({"prompt": "bad"}))
    for _ in range(MAX_FAILURES):
        feed(good, here.clock, 4)
        feed(bad, here.clock, 4)
        await here.quiet()
        assert len(await results(good)) == 4
    assert bad.stats().drops == {"error": 4 * MAX_FAILURES}
    assert bad.ended.is_set()
    assert not good.ended.is_set()


async def test_a_session_recovers_with_better_parameters(stage: Callable[..., Stage]) -> None:
    here = stage()
    session = here.session("a", SMALL.updated({"prompt": "refused"}))
    feed(session, here.clock, 4)
    await here.quiet()
    session.update({"prompt": "fine"})
    feed(session, here.clock, 4)
    await here.quiet()
    assert len(await results(session)) == 4
    assert here.engine.batches[-1][0].first


async def test_a_lost_worker_costs_the_frames_in_flight_only(stage: Callable[..., Stage]) -> None:
    here = stage()
    one, two = here.session("a"), here.session("b")
    for session in (one, two):
        feed(session, here.clock, 4)
    await here.quiet()
    here.engine.dies = True
    for session in (one, two):
        feed(session, here.clock, 4)
    await here.quiet()
    assert Restarted("killed") in here.messages["a"]
    assert Restarted("killed") in here.messages["b"]
    for session in (one, two):
        feed(session, here.clock, 4)
        await here.quiet()
        assert session.state == "live"
        assert session.stats().drops == {"restart": 4}
    assert all(work.first for batch in here.engine.batches[-2:] for work in batch)


async def test_a_forgotten_chunk_is_lost_once_and_its_late_result_ignored(stage: Callable[..., Stage]) -> None:
    here = stage()
    session = here.session("a")
    here.engine.gate.clear()
    feed(session, here.clock, 4)
    await here.quiet()
    session.reset()
    assert session.stats().drops == {"restart": 4}
    here.engine.gate.set()
    await here.quiet()
    assert await results(session) == []
    feed(session, here.clock, 4)
    await here.quiet()
    assert [number for number, _ in await results(session)] == [4, 5, 6, 7]


async def test_a_session_closed_in_flight_is_settled(stage: Callable[..., Stage]) -> None:
    here = stage()
    session, other = here.session("a"), here.session("b")
    here.engine.gate.clear()
    feed(session, here.clock, 4)
    await here.quiet()
    session.close()
    assert settled(session)
    assert here.engine.forgotten == ["a"]
    here.engine.gate.set()
    feed(other, here.clock, 4)
    await here.quiet()
    assert len(await results(other)) == 4


MEMORY_BOUND = CostModel({("denoise", Shape(1, 64, 64)): Line(0.05, 0.001, 0.0)})


async def test_stream_batches_give_every_result_later(stage: Callable[..., Stage]) -> None:
    here = stage(cost=MEMORY_BOUND)
    session = here.session("a")
    got: list[int] = []
    for _ in range(4):
        feed(session, here.clock, 4)
        await here.quiet()
        got += [number for number, _ in await results(session)]
    assert got == list(range(12))  # two steps: the last chunk waits for the next to come beside it
    assert session.stats().plan["mode"] == "stream_batch"
    session.close()
    assert settled(session)


async def test_a_fault_of_another_in_a_stream_batch_is_held_against_nobody_else(stage: Callable[..., Stage]) -> None:
    here = stage(cost=CostModel({("denoise", Shape(1, 64, 64)): Line(0.05, 0.0, 0.0)}))
    steps = {"steps": 4, "slo_ms": 5000.0}
    innocent, culprit = here.session("innocent", SMALL.updated(steps)), here.session("culprit", SMALL.updated(steps))
    for turn in range(6):
        if turn == 4:  # three chunks of each are held by now
            culprit.update({"prompt": "bad"})
        for session in (innocent, culprit):
            feed(session, here.clock, 4)
        await here.quiet()
        await results(innocent)
    assert not innocent.ended.is_set()
    assert innocent.stats().drops.keys() <= {"restart"}
    assert culprit.stats().drops["error"]
    for _ in range(5):
        feed(innocent, here.clock, 4)
        await here.quiet()
    assert await results(innocent)


async def test_a_batch_that_fails_in_an_unforeseen_way_is_answered(stage: Callable[..., Stage]) -> None:
    here = stage()
    session = here.session("a")

    async def broken(chunks: object) -> BatchDone:
        raise ValueError("nobody thought of this")

    working, here.engine.run = here.engine.run, broken  # type: ignore[method-assign]
    feed(session, here.clock, 4)
    await here.quiet()
    assert session.stats().drops == {"error": 4}
    here.engine.run = working  # type: ignore[method-assign]
    feed(session, here.clock, 4)
    await here.quiet()
    assert len(await results(session)) == 4


async def test_when_the_engine_will_be_free_follows_when_it_was(stage: Callable[..., Stage]) -> None:
    """Two batches of 0.1 s: when the first takes 0.14 the second is expected 0.04 later, and no more."""
    here = stage(cost=CostModel({("denoise", Shape(1, 64, 64)): Line(0.0, 0.05, 0.0)}))
    one, two = here.session("a"), here.session("b")
    here.engine.gate.clear()
    feed(one, here.clock, 4)
    await here.quiet()
    here.clock.time += 0.1
    feed(two, here.clock, 4)
    await here.quiet()
    assert here.loop.capacity.free[2] == pytest.approx(100.2)
    here.clock.time += 0.04
    here.engine.gate.set()
    await here.quiet()
    assert here.loop.capacity.free == IDLE
    assert len(await results(two)) == 4


async def test_an_engine_that_failed_for_good_ends_all_sessions(stage: Callable[..., Stage]) -> None:
    here = stage()
    session = here.session("a")
    here.engine.failure = "no device"
    feed(session, here.clock, 4)
    await asyncio.wait([here.task])
    assert here.task.exception() is None
    assert session.end_reason == "the engine failed: no device"


async def test_what_batches_take_is_learnt(stage: Callable[..., Stage]) -> None:
    here = stage()
    session = here.session("a")
    here.engine.times = StageTimes(0.01, 0.04, 0.1, 0.05, 1, 2, 2, 1)
    feed(session, here.clock, 4)
    await here.quiet()
    assert here.loop.cost.costs(Shape(4, 64, 64), 1, 2, 2) == pytest.approx((0.01, 0.04, 0.1, 0.05))
    stages = session.stats().stages_ms
    assert {stage: stages[stage] for stage in ("transfer", "encode", "denoise", "decode")} == {
        "transfer": 10.0,
        "encode": 40.0,
        "denoise": 100.0,
        "decode": 50.0,
    }
