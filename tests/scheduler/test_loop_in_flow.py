"""The loop with an engine through which chunks flow, whose batches come back when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.fake import FAKE_SPEC
from streamgen.core import Frame, Params
from streamgen.engine import STATE_LOST, BatchDone, ChunkDone, ChunkWork, StageTimes
from streamgen.errors import WorkerDiedError
from streamgen.metrics import Metrics
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import CostModel, Line, Shape
from streamgen.scheduler.loop import LEAD_S, Loop
from streamgen.session import Session
from streamgen.wire import Restarted, ServerMessage
from tests.support.service import SMALL, ManualClock, feed, settled

SPEC = replace(FAKE_SPEC, stages=2, flight=3)
DEPTH = 4
FLOW = Capacity(max_batch=4, stages=2, flight=3, places=DEPTH)

Outcome = tuple[str, bool]
"""Code of an error, and whether the stream's state is lost."""


class FlowEngine:
    """Keeps batches until they are let go. Results are the frames, inverted."""

    state = "ready"

    def __init__(self) -> None:
        self.batches: list[list[ChunkWork]] = []
        self.forgotten: list[str] = []
        self._ways: list[asyncio.Future[BatchDone]] = []

    async def ready(self) -> None:
        """At once."""

    async def run(self, chunks: Sequence[ChunkWork]) -> BatchDone:
        self.batches.append(list(chunks))
        self._ways.append(asyncio.get_running_loop().create_future())
        return await self._ways[-1]

    def forget(self, session: str) -> None:
        self.forgotten.append(session)

    def answer(self, number: int, times: StageTimes | None = None, **outcomes: Outcome) -> None:
        """Lets a batch go, with these errors by session."""
        answers = [self._done(chunk, outcomes.get(chunk.session)) for chunk in self.batches[number]]
        self._ways[number].set_result(BatchDone(answers, times))

    def end(self, *numbers: int) -> None:
        """The worker dies, and these batches with it."""
        for number in numbers:
            self._ways[number].set_exception(WorkerDiedError("the worker died"))

    @property
    def firsts(self) -> list[bool]:
        """Of the only chunk of each batch."""
        return [chunk.first for (chunk,) in self.batches]

    def _done(self, chunk: ChunkWork, outcome: Outcome | None) -> ChunkDone:
        if outcome is None:
            return ChunkDone(chunk.session, chunk.tag, 255 - np.stack(list(chunk.pixels)), {})
        return ChunkDone(chunk.session, chunk.tag, None, {}, (outcome[0], "it failed"), outcome[1])


class Stage:
    """A loop with its engine and some sessions."""

    def __init__(self, capacity: Capacity = FLOW, **settings: Any) -> None:
        self.clock, self.engine = ManualClock(), FlowEngine()
        self.loop = Loop(self.engine, self.clock, Metrics(), capacity, **{"depth": DEPTH, **settings})
        self.task = asyncio.create_task(self.loop.run())
        self.told: dict[str, list[ServerMessage]] = {}

    def session(self, name: str, params: Params = SMALL) -> Session:
        self.told[name] = []
        told, metrics = self.told[name].append, Metrics()
        session = Session(name, params, SPEC, scheduler=self.loop, clock=self.clock, metrics=metrics, notify=told)
        self.loop.enter(session)
        session.connected()
        return session

    async def feed(self, *sessions: Session) -> list[list[Frame]]:
        """A chunk of each, and what becomes of it."""
        frames = [feed(session, self.clock, 4) for session in sessions]
        await self.quiet()
        return frames

    async def answer(self, number: int, **outcomes: Any) -> None:
        self.engine.answer(number, **outcomes)
        await self.quiet()

    async def quiet(self) -> None:
        """Until nothing is left to do."""
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
async def stage() -> AsyncIterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(*args: Any, **settings: Any) -> Stage:
        stages.append(Stage(*args, **settings))
        return stages[-1]

    yield make
    for made in stages:
        made.task.cancel()
        await asyncio.wait([made.task])


async def results(session: Session) -> list[int]:
    """Ids of the results that are there, each checked."""
    out = []
    while len(session._outbox):
        finished = await session.finished()
        assert finished is not None
        assert (finished.frame.pixels == 255 - finished.frame.id).all()
        assert session.hand_over(finished)
        out.append(finished.frame.id)
    return out


async def test_a_session_has_as_many_chunks_under_way_as_a_flow_takes(stage: Callable[..., Stage]) -> None:
    here = stage()
    session = here.session("a")
    for count in (1, 2, 3, 3):
        await here.feed(session)
        assert len(here.engine.batches) == count
    for number in range(4):
        await here.answer(number)
    assert await results(session) == list(range(16))
    assert here.engine.firsts == [True, False, False, False]
    assert session.stats().drops == {}
    assert settled(session)
    assert here.loop.capacity.under_way == ()


async def test_batches_of_different_sessions_come_back_in_any_order(stage: Callable[..., Stage]) -> None:
    here = stage()
    one, two = here.session("a"), here.session("b")
    await here.feed(one)
    await here.feed(two)
    await here.feed(one)
    assert len(list(here.loop.capacity.under_way)) == 3
    await here.answer(1)
    assert await results(two) == [0, 1, 2, 3]
    assert await results(one) == []
    await here.answer(0)
    await here.answer(2)
    assert await results(one) == list(range(8))
    assert here.loop.capacity.under_way == ()


async def test_no_more_batches_are_under_way_than_a_flow_has_places(stage: Callable[..., Stage]) -> None:
    here = stage()
    sessions = [here.session(name) for name in "abcdef"]
    for session in sessions:
        await here.feed(session)
    assert len(here.engine.batches) == DEPTH
    await here.answer(2)
    assert [chunk.session for chunk in here.engine.batches[-1]] in (["e"], ["e", "f"])


async def test_new_parameters_hold_from_the_next_chunk_on_whatever_is_under_way(stage: Callable[..., Stage]) -> None:
    here = stage()
    session = here.session("a")
    await here.feed(session)
    await here.feed(session)
    update = session.update({"prompt": "oil"})
    await here.feed(session)
    assert await update == 8
    assert [chunk.params.prompt for (chunk,) in here.engine.batches] == ["", "", "oil"]
    for number in range(3):
        await here.answer(number)
    assert await results(session) == list(range(12))
    assert here.engine.firsts == [True, False, False]


async def test_a_failure_costs_what_was_under_way_behind_it_and_counts_once(stage: Callable[..., Stage]) -> None:
    """The next chunk begins a stream, whose answer may come before those of what was cut off; they end no other."""
    here = stage()
    session, other = here.session("a"), here.session("b")
    for _ in range(3):
        await here.feed(session)
    await here.answer(0, a=("engine_failed", True))
    await here.feed(session)
    assert here.engine.firsts == [True, False, False, True]
    await here.answer(1, a=(STATE_LOST, True))
    await here.feed(session)
    await here.answer(3)
    await here.answer(2, a=(STATE_LOST, True))
    await here.feed(session, other)
    assert [(chunk.session, chunk.first) for batch in here.engine.batches[4:] for chunk in batch] == [
        ("a", False),
        ("a", False),
        ("b", True),
    ]
    for number in range(4, len(here.engine.batches)):
        await here.answer(number)
    assert await results(session) == list(range(12, 24))
    assert session.stats().drops == {"error": 4, "restart": 8}
    assert not session.ended.is_set()
    assert session._failures == 0
    assert settled(session)


async def test_a_stream_that_is_lost_before_anybody_knew_is_begun_again(stage: Callable[..., Stage]) -> None:
    """The chunk that was sent last is of the same stream: it is told only then."""
    here = stage()
    session = here.session("a")
    await here.feed(session)
    await here.feed(session)
    await here.answer(0)
    await here.answer(1, a=(STATE_LOST, True))
    await here.feed(session)
    assert here.engine.firsts == [True, False, True]


async def test_a_reset_with_chunks_under_way_loses_each_once_and_goes_on_at_once(stage: Callable[..., Stage]) -> None:
    here = stage()
    session = here.session("a")
    for _ in range(3):
        await here.feed(session)
    session.reset()
    assert session.stats().drops == {"restart": 12}
    assert here.engine.forgotten == ["a"]
    await here.feed(session)
    assert here.engine.firsts == [True, False, False, True]
    for number in range(4):
        await here.answer(number)
    assert await results(session) == [12, 13, 14, 15]
    assert session.stats().drops == {"restart": 12}
    assert settled(session)


async def test_a_pause_drops_what_comes_out_meanwhile_and_no_more(stage: Callable[..., Stage]) -> None:
    here = stage()
    session = here.session("a")
    for _ in range(3):
        await here.feed(session)
    session.pause()
    await here.answer(0)
    session.resume()
    await here.answer(1)
    await here.answer(2)
    assert await results(session) == list(range(4, 12))
    assert session.stats().drops == {"paused": 4}
    assert settled(session)


async def test_a_session_closed_with_chunks_under_way_is_settled(stage: Callable[..., Stage]) -> None:
    here = stage()
    session, other = here.session("a"), here.session("b")
    for _ in range(3):
        await here.feed(session)
    session.close()
    assert settled(session)
    await here.feed(other)
    for number in range(4):
        await here.answer(number)
    assert await results(other) == [0, 1, 2, 3]
    assert here.loop._flights == {}


async def test_a_lost_worker_costs_what_was_under_way_and_one_of_it_the_blame(stage: Callable[..., Stage]) -> None:
    here = stage()
    one, two = here.session("a"), here.session("b")
    for session in (one, two, one, two):
        await here.feed(session)
    here.engine.end(0, 1, 2, 3)
    await here.quiet()
    here.loop.restarted("killed")
    for session in (one, two):
        assert Restarted("killed") in here.told[session.id]
        assert session.stats().drops == {"restart": 8}
    assert (one._failures, two._failures) == (1, 0)
    await here.feed(one, two)
    assert all(chunk.first for batch in here.engine.batches[4:] for chunk in batch)
    for number in range(4, len(here.engine.batches)):
        await here.answer(number)
    assert await results(one) == await results(two) == [8, 9, 10, 11]


async def test_how_much_batches_hold_each_other_up_is_learnt(stage: Callable[..., Stage]) -> None:
    here = stage(cost=CostModel({("denoise", Shape(1, 64, 64)): Line(0.0, 0.05, 0.0)}))
    times = StageTimes(0.0, 0.0, 0.1, 0.0, 1, 2, 2, 1)
    sessions = [here.session(name) for name in "abc"]
    for session in sessions:
        await here.feed(session)
    ends = here.loop.capacity.under_way
    assert [end - here.clock.now() for end in ends] == pytest.approx([0.1, 0.1 * 1.25, 0.1 * 1.5])
    before = here.loop.capacity.crowding
    here.clock.time += 0.1
    await here.answer(0, times=times)
    assert here.loop.capacity.crowding == before  # it was alone when it began
    here.clock.time += 0.2
    await here.answer(1, times=times)
    assert here.loop.capacity.crowding > before
    assert here.loop._lead == LEAD_S[0]  # what others took is not taken for the way there
    await here.answer(2, times=times)
    assert here.loop.capacity.under_way == ()
