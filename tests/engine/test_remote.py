"""The service's side of the worker, with a worker that does as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from pipelines.fake import FAKE_SPEC
from streamgen.core import MAX_STEPS, Params, PipelineSpec, Pixels
from streamgen.engine import BatchDone, ChunkDone, ChunkWork, StageTimes
from streamgen.engine.frames import FrameMemory
from streamgen.engine.messages import Attach, Close, Done, FromWorker, Ready, Result, Run, Stop, ToWorker
from streamgen.engine.remote import RemoteStreams
from streamgen.errors import WorkerDiedError

PARAMS = Params(width=64, height=64)
SHAPE = (4, 64, 64, 3)
TIMES = StageTimes(transfer=1.0, encode=2.0, denoise=3.0, decode=4.0, chunks=1, calls=2, rows=2, decoded=1)
LONG_S = 60.0
FLOW = replace(FAKE_SPEC, stages=3, flight=3)


class Puppet:
    """A worker's process: keeps what it is sent, says what it is told to."""

    pids = (1,)

    def __init__(self) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.sent: list[ToWorker] = []
        self.killed: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[FromWorker | None] = asyncio.Queue()
        self._news = asyncio.Event()

    def send(self, message: ToWorker) -> None:
        if self.ended.done():
            raise WorkerDiedError("ended")
        self.sent.append(message)
        self._loop.call_soon_threadsafe(self._news.set)
        if isinstance(message, Stop):
            self._loop.call_soon_threadsafe(self.end, "stopped")

    async def receive(self) -> FromWorker:
        message = await self._received.get()
        if message is None:
            raise WorkerDiedError(self.ended.result())
        return message

    def kill(self, reason: str) -> None:
        self.killed.append(reason)
        self.end(reason)

    def end(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)
            self._received.put_nowait(None)

    @property
    def jobs(self) -> list[Run]:
        return [message for message in self.sent if isinstance(message, Run)]

    async def got(self, count: int) -> list[Run]:
        """The jobs, when there are so many."""
        while len(self.jobs) < count:
            self._news.clear()
            await self._news.wait()
        return self.jobs

    def answer(self, job: Run, memory: FrameMemory, times: StageTimes | None = TIMES) -> None:
        """Inverts the frames of the job's chunks."""
        for chunk in job.chunks:
            view = memory.view(chunk.slot, SHAPE)
            view[:] = 255 - view
        results = tuple(Result(c.session, c.tag, c.slot, SHAPE, {}, None, False) for c in job.chunks)
        self._received.put_nowait(Done(job.job, results, times, ()))


@asynccontextmanager
async def remote(
    slots: int = 2, depth: int | None = 2, spec: PipelineSpec = FAKE_SPEC
) -> AsyncIterator[tuple[RemoteStreams, Puppet, FrameMemory]]:
    memory, puppet = FrameMemory(), Puppet()
    streams = RemoteStreams(puppet, memory, Ready(spec, ()), slots, depth)
    try:
        yield streams, puppet, memory
    finally:
        await streams.stop()


def source(tag: int) -> Pixels:
    return np.random.default_rng(tag).integers(0, 256, SHAPE, np.uint8)


def work(session: str, tag: int = 0) -> ChunkWork:
    return ChunkWork(session, PARAMS, False, list(source(tag)), tag=tag)


def start(streams: RemoteStreams, *chunks: ChunkWork, timeout_s: float = LONG_S) -> asyncio.Task[BatchDone]:
    return asyncio.create_task(streams.run(chunks, timeout_s))


def expect(answers: list[ChunkDone], *tags: int) -> None:
    assert [answer.tag for answer in answers] == [*tags]
    for answer in answers:
        assert answer.pixels is not None
        assert np.array_equal(answer.pixels, 255 - source(answer.tag))


async def test_a_batch_is_copied_while_another_is_computed() -> None:
    async with remote() as (streams, puppet, memory):
        first, second = start(streams, work("a", 1)), start(streams, work("b", 2), work("c", 3))
        jobs = await puppet.got(2)  # without an answer to the first
        assert not first.done()
        owned = [set(job.slots) for job in jobs]
        assert [len(slots) for slots in owned] == [MAX_STEPS, 2 * MAX_STEPS]
        assert not owned[0] & owned[1]
        puppet.answer(jobs[0], memory)
        expect((await first).chunks, 1)
        assert not second.done()
        third = start(streams, work("d", 4))
        jobs = await puppet.got(3)
        assert not set(jobs[2].slots) & owned[1]
        for job in jobs[1:]:
            puppet.answer(job, memory)
        expect((await second).chunks, 2, 3)
        expect((await third).chunks, 4)
        assert streams._awaited == {}


async def test_there_are_slots_for_as_many_batches_as_may_be_on_their_way() -> None:
    async with remote(slots=2, depth=3) as (streams, puppet, memory):
        calls = [start(streams, work(f"a{i}", i), work(f"b{i}", 10 + i)) for i in range(3)]
        jobs = await puppet.got(3)
        (attach,) = (message for message in puppet.sent if isinstance(message, Attach))
        assert sorted(slot for job in jobs for slot in job.slots) == list(range(attach.slots))
        for job in jobs:
            puppet.answer(job, memory)
        for i, call in enumerate(calls):
            expect((await call).chunks, i, 10 + i)


async def test_the_end_of_the_worker_ends_every_batch() -> None:
    async with remote() as (streams, puppet, _):
        calls = [start(streams, work(session)) for session in "ab"]
        await puppet.got(2)
        puppet.end("the worker got SIGKILL")
        for call in calls:
            with pytest.raises(WorkerDiedError) as caught:
                await call
            assert caught.value.message == "the worker got SIGKILL"
        with pytest.raises(WorkerDiedError):
            await streams.run([work("c")], LONG_S)


async def test_an_answer_that_came_before_the_end_counts() -> None:
    async with remote() as (streams, puppet, memory):
        calls = [start(streams, work(session, tag)) for tag, session in enumerate("ab")]
        jobs = await puppet.got(2)
        puppet.answer(jobs[0], memory)
        puppet.end("the worker got SIGKILL")
        expect((await calls[0]).chunks, 0)
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            await calls[1]


async def test_the_time_of_a_batch_counts_from_the_end_of_the_one_before() -> None:
    """The second one's time is shorter than the first one's stay; it begins when the worker can begin with it."""
    async with remote() as (streams, puppet, memory):
        first, second = start(streams, work("a", 1)), start(streams, work("b", 2), timeout_s=0.05)
        jobs = await puppet.got(2)
        await asyncio.sleep(0.2)
        assert not second.done()
        assert puppet.killed == []
        puppet.answer(jobs[0], memory)
        expect((await first).chunks, 1)
        with pytest.raises(WorkerDiedError, match=r"did not answer within 0\.05 s"):
            await second
        assert puppet.killed == ["the worker did not answer within 0.05 s"]


async def test_a_batch_out_of_time_ends_the_others() -> None:
    async with remote() as (streams, puppet, _):
        calls = [start(streams, work("a"), timeout_s=0.05), start(streams, work("b"))]
        await puppet.got(2)
        for call in calls:
            with pytest.raises(WorkerDiedError, match=r"did not answer within 0\.05 s"):
                await call


async def test_the_copies_on_either_side_are_the_transfer() -> None:
    memory, puppet = FrameMemory(), Puppet()
    now = iter(range(100))
    streams = RemoteStreams(puppet, memory, Ready(FAKE_SPEC, ()), 1, 2, clock=lambda: float(next(now)))
    call = start(streams, work("a"))
    (job,) = await puppet.got(1)
    puppet.answer(job, memory)
    # every look at the clock is a second: one for the copies in, one for those out
    assert (await call).times == replace(TIMES, transfer=3.0)
    call = start(streams, work("a"))
    puppet.answer((await puppet.got(2))[1], memory, times=None)
    assert (await call).times is None
    await streams.stop()


async def test_a_close_keeps_its_place_between_batches() -> None:
    async with remote() as (streams, puppet, memory):
        first = start(streams, work("a"))
        await asyncio.sleep(0)
        streams.close("a")
        second = start(streams, work("a", 1))
        for job in await puppet.got(2):
            puppet.answer(job, memory)
        expect((await first).chunks, 0)
        expect((await second).chunks, 1)
        kinds = [type(message) for message in puppet.sent]
        assert kinds == [Attach, Run, Close, Run]


async def test_a_flush_needs_no_frames_and_no_valid_size() -> None:
    async with remote() as (streams, puppet, _):
        call = start(streams, ChunkWork("a", replace(PARAMS, width=72), False, ()))
        (job,) = await puppet.got(1)
        assert [(chunk.frames, chunk.mode) for chunk in job.chunks] == [(0, "sequential")]
        assert len(job.slots) == MAX_STEPS
        puppet.end("enough")
        with pytest.raises(WorkerDiedError):
            await call


async def test_in_a_flow_there_are_slots_for_as_many_batches_as_keep_all_stages_at_work() -> None:
    async with remote(slots=2, depth=None, spec=FLOW) as (streams, puppet, memory):
        assert streams.depth == 6
        calls = [start(streams, work("a", i), work("b", 10 + i)) for i in range(6)]
        jobs = await puppet.got(6)
        (attach,) = (message for message in puppet.sent if isinstance(message, Attach))
        assert sorted(slot for job in jobs for slot in job.slots) == list(range(attach.slots))
        assert attach.slots == 12  # nothing is held back that would come with others
        for job in jobs:
            puppet.answer(job, memory)
        for i, call in enumerate(calls):
            expect((await call).chunks, i, 10 + i)


async def test_in_a_flow_answers_need_not_wait_for_each_other_and_return_in_their_order() -> None:
    async with remote(depth=4, spec=FLOW) as (streams, puppet, memory):
        returned: list[int] = []

        async def run(tag: int) -> None:
            expect((await streams.run([work("a", tag)], LONG_S)).chunks, tag)
            returned.append(tag)

        calls = [asyncio.create_task(run(tag)) for tag in range(4)]
        jobs = await puppet.got(4)
        for i in (2, 0, 3, 1):
            puppet.answer(jobs[i], memory)
        await asyncio.gather(*calls)
        assert returned == [2, 0, 3, 1]


async def test_in_a_flow_without_any_answer_the_worker_is_taken_for_lost() -> None:
    async with remote(depth=3, spec=FLOW) as (streams, puppet, memory):
        answered = start(streams, work("a", 0))
        puppet.answer((await puppet.got(1))[0], memory)
        expect((await answered).chunks, 0)
        calls = [start(streams, work("a", tag), timeout_s=timeout_s) for tag, timeout_s in ((1, 0.05), (2, LONG_S))]
        for call in calls:
            with pytest.raises(WorkerDiedError, match=r"did not answer within 0\.05 s"):
                await call
        assert puppet.killed == ["the worker did not answer within 0.05 s"]
