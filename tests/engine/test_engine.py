from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.fake import FAKE_SPEC, FakePipeline, Fault, restyle
from pipelines.fake_flow import FakeFlow
from streamgen.core import Params, PipelineSpec, Pixels
from streamgen.engine import ChunkDone, ChunkWork, Engine, remote
from streamgen.engine.work import depth_of
from streamgen.errors import EngineError, WorkerDiedError
from tests.support.factories import broken_while, standing_while
from tests.support.processes import alive, open_files, until

PARAMS = Params(prompt="ink", width=64, height=64)
SPEC = replace(FAKE_SPEC, defaults=Params(width=64, height=64))
FAULTS = {
    "raise": Fault("denoise", "raise"),
    "params": Fault("encode", "params"),
    "exit": Fault("denoise", "exit"),
    "hang": Fault("denoise", "hang"),
}
FAKE = partial(FakePipeline, SPEC, faults=FAULTS)
NEVER: Any = partial(time.sleep, 3600)


@asynccontextmanager
async def running(factory: Callable[[], Any] = FAKE, **options: Any) -> AsyncIterator[Engine]:
    engine = Engine(factory, **{"slots": 4, "backoff_s": (0.01, 0.1), **options})
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()
        await engine.stop()
    assert engine.state == "stopped"
    assert engine.pid is None
    assert multiprocessing.active_children() == []


def source(session: str, tag: int, params: Params = PARAMS) -> Pixels:
    """Frames that no other session or tag has."""
    seed = [*session.encode(), tag]
    return np.random.default_rng(seed).integers(0, 256, (4, params.height, params.width, 3), np.uint8)


def work(session: str = "a", tag: int = 0, prompt: str = PARAMS.prompt, **options: Any) -> ChunkWork:
    params = replace(PARAMS, prompt=prompt)
    return ChunkWork(session, params, options.pop("first", False), list(source(session, tag)), tag=tag, **options)


def expect(answers: Sequence[ChunkDone], *chunks: tuple[str, int], params: Params = PARAMS) -> None:
    """`answers` are the results of the chunks, (session, number) each; numbers are the tags as well."""
    assert [(answer.session, answer.tag, answer.error) for answer in answers] == [(*chunk, None) for chunk in chunks]
    for answer in answers:
        assert answer.pixels is not None
        assert np.array_equal(answer.pixels, restyle(source(answer.session, answer.tag), params, answer.tag))


async def run(engine: Engine, chunks: Sequence[ChunkWork]) -> list[ChunkDone]:
    return (await engine.run(chunks)).chunks


def pid_of(engine: Engine) -> int:
    assert engine.pid is not None
    return engine.pid


async def test_batches_go_there_and_back() -> None:
    async with running() as engine:
        assert engine.state == "ready"
        assert engine.spec == SPEC
        assert [(one.frames, one.times.chunks) for one in engine.warmup] == [(4, 1), (4, 2)]
        kept = [await run(engine, [work(session, i) for session in "abcd"]) for i in range(3)]
        for i, answers in enumerate(kept):  # only now: a later batch must not have written over them
            expect(answers, *((session, i) for session in "abcd"))
            assert all(answer.info == {"noise": PARAMS.noise} for answer in answers)
        assert await run(engine, []) == []


async def test_all_that_a_stream_batch_has_in_flight_fits() -> None:
    async with running(slots=1) as engine:
        params = replace(PARAMS, steps=4)
        chunks = [replace(work("a", i), params=params, mode="stream_batch") for i in range(4)]
        answers = [answer for chunk in chunks for answer in await run(engine, [chunk])]
        expect(answers, ("a", 0), params=params)
        answers = await run(engine, [replace(work("a", 4), params=params)])
        expect(answers, *(("a", i) for i in range(1, 5)), params=params)


async def test_forget_and_first_begin_a_new_stream() -> None:
    async with running() as engine:
        expect(await run(engine, [work("a", 0), work("b", 0)]), ("a", 0), ("b", 0))
        engine.forget("a")
        engine.forget("nobody")
        expect(await run(engine, [work("a", 0), work("b", 1)]), ("a", 0), ("b", 1))
        expect(await run(engine, [work("a", 0, first=True)]), ("a", 0))


async def test_a_fault_of_one_session_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "streamgen.engine")
    async with running() as engine:
        for i in range(2):
            batch = [work("a", i), work("b", i, "raise"), work("c", i), work("d", i, "params")]
            answers = await run(engine, batch)
            expect([answer for answer in answers if not answer.error], ("a", i), ("c", i))
            bad = {answer.session: answer for answer in answers if answer.error}
            assert bad["b"].error == ("engine_failed", "RuntimeError: programmed fault in denoise with a second line")
            assert bad["d"].error == ("bad_params", "prompt: programmed refusal in encode")
            assert all(answer.state_lost and answer.pixels is None for answer in bad.values())
        assert engine.state == "ready"
    assert "Traceback" in caplog.text


async def test_a_chunk_that_fits_no_slot_is_refused_alone() -> None:
    def chunk(shape: tuple[int, ...], count: int = 4, **params: Any) -> ChunkWork:
        return ChunkWork("b", replace(PARAMS, **params), first=True, pixels=[np.zeros(shape, np.uint8)] * count)

    bad = {
        "no frames": replace(chunk((64, 64, 3), 0), mode="stream_batch"),
        "too many": chunk((64, 64, 3), 5),
        "another size": chunk((64, 80, 3)),
        "not colour": chunk((64, 64)),
        "not bytes": replace(chunk((64, 64, 3)), pixels=[np.zeros((64, 64, 3), np.float32)]),
        "no multiple": chunk((64, 72, 3), width=72),
        "too large": chunk((1088, 1920, 3), width=1920, height=1088),
    }
    async with running() as engine:
        codes = {}
        for i, (name, refused) in enumerate(bad.items()):
            answers = {answer.session: answer for answer in await run(engine, [work("a", i), refused])}
            expect([answers["a"]], ("a", i))
            codes[name] = (answers["b"].error or ("none",))[0]
        assert {name for name, code in codes.items() if code == "bad_chunk"} == {*bad} - {"no multiple", "too large"}
        assert codes["no multiple"] == codes["too large"] == "bad_params"
        assert (await run(engine, [bad["no frames"]]))[0].error is not None
        assert (await engine.run([work("a", len(bad)), bad["not bytes"]])).times is None


async def test_a_batch_that_is_none_is_refused() -> None:
    async with running(slots=2) as engine:
        with pytest.raises(ValueError, match="2 chunks of 1 sessions"):
            await run(engine, [work("a", 0), work("a", 1)])
        with pytest.raises(ValueError, match="3 chunks"):
            await run(engine, [work("a"), work("b"), work("c")])
        expect(await run(engine, [work("a"), work("b")]), ("a", 0), ("b", 0))


async def test_batches_wait_for_each_other_and_outlive_a_cancelled_caller() -> None:
    async with running() as engine:
        calls = [asyncio.create_task(run(engine, [work(session)])) for session in "abcdef"]
        await asyncio.sleep(0)
        calls[0].cancel()
        calls[4].cancel()
        for i in (5, 3, 2, 1):  # who came last is answered last
            expect(await calls[i], ("abcdef"[i], 0))
            assert all(call.done() for call in calls[:i])
        assert calls[0].cancelled()
        expect(await run(engine, [work("a", 1), work("e", 1)]), ("a", 1), ("e", 1))


async def test_stop_ends_a_batch_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "STOP_S", 0.1)
    async with running() as engine:
        call = asyncio.create_task(run(engine, [work("a", 0, "hang")]))
        await asyncio.sleep(0.05)
        assert not call.done()
        await engine.stop()
        with pytest.raises(WorkerDiedError, match="did not stop"):
            await call


def sigkill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def sigstop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


@pytest.mark.parametrize(
    ("prompt", "harm", "reason"),
    [
        ("hang", sigkill, "the worker got SIGKILL"),
        ("exit", None, "the worker exited with status 3"),
        ("hang", None, "the worker did not answer within 2 s"),
        ("ink", sigstop, "the worker was silent for 0.7 s"),
    ],
)
async def test_a_worker_lost_in_a_batch_is_replaced(
    prompt: str, harm: Callable[[int], None] | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    restarts: list[str] = []
    timeout_s = 2.0 if "answer" in reason else 60.0
    async with running(job_timeout_s=timeout_s, on_restart=restarts.append) as engine:
        expect(await run(engine, [work("a", 0), work("b", 0)]), ("a", 0), ("b", 0))
        lost = pid_of(engine)
        if harm is sigstop:
            sigstop(lost)
        call = asyncio.create_task(run(engine, [work("a", 1, prompt)]))
        with_it = asyncio.create_task(run(engine, [work("b", 1)]))
        waiting = asyncio.create_task(run(engine, [work("c", 0)]))
        if harm is sigkill:
            await asyncio.sleep(0.05)
            sigkill(lost)
        with pytest.raises(WorkerDiedError) as caught:
            await call
        assert caught.value.message == reason
        with pytest.raises(WorkerDiedError) as caught:
            await with_it
        assert caught.value.message == reason
        assert engine.state == "restarting"
        assert engine.pid is None
        with pytest.raises(EngineError, match="restarting"):
            await waiting
        with pytest.raises(EngineError, match="restarting"):
            await run(engine, [work("a")])
        await engine.ready()
        assert restarts == [reason]
        assert not alive(lost)
        assert pid_of(engine) != lost
        expect(await run(engine, [work("a", 0), work("b", 0)]), ("a", 0), ("b", 0))  # fresh streams
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_worker_that_dies_while_idle_is_replaced() -> None:
    async with running() as engine:
        for _ in range(2):
            lost = pid_of(engine)
            sigkill(lost)
            await until(lambda lost=lost: engine.pid not in (None, lost))  # type: ignore[misc]
        expect(await run(engine, [work()]), ("a", 0))


async def test_on_restart_may_fail() -> None:
    def on_restart(reason: str) -> None:
        raise RuntimeError(reason)

    async with running(on_restart=on_restart) as engine:
        with pytest.raises(WorkerDiedError):
            await run(engine, [work("a", 0, "exit")])
        await engine.ready()
        expect(await run(engine, [work()]), ("a", 0))


async def test_a_session_that_always_fails_does_not_cost_the_worker() -> None:
    async with running() as engine:
        before = pid_of(engine)
        for i in range(3):
            assert (await run(engine, [work("a", i, "raise")]))[0].error is not None
        expect(await run(engine, [work("b")]), ("b", 0))
        assert pid_of(engine) == before


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (partial(int, "nonsense"), "ValueError: .*nonsense"),
        (partial(FakePipeline, faults={"": Fault("decode")}), "RuntimeError: programmed fault in decode"),
        (partial(os._exit, 4), "the worker exited with status 4"),
        (lambda: FakePipeline(SPEC), "factory cannot be sent to a worker"),
    ],
)
async def test_a_start_that_fails_says_why_in_one_line(
    factory: Callable[[], Any], reason: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(factory)
    with pytest.raises(EngineError, match=reason) as caught:
        await engine.start()
    assert "\n" not in caught.value.message
    assert engine.state == "failed"
    with pytest.raises(EngineError, match=reason):
        await engine.ready()
    with pytest.raises(EngineError, match="failed"):
        await run(engine, [work()])
    with pytest.raises(EngineError, match="failed"):
        engine.spec  # noqa: B018
    await engine.stop()
    assert capfd.readouterr().err == ""
    assert caplog.text == ""
    assert multiprocessing.active_children() == []


async def test_an_expected_error_of_the_build_keeps_its_words(tmp_path: Path) -> None:
    (tmp_path / "flag").touch()
    with pytest.raises(EngineError) as caught:
        await Engine(partial(broken_while, tmp_path / "flag")).start()
    assert caught.value.message == "weights are missing: flag"


async def test_a_worker_that_cannot_be_rebuilt_is_tried_again_until_it_can(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    restarts: list[str] = []
    async with running(partial(broken_while, flag), on_restart=restarts.append) as engine:
        flag.touch()
        sigkill(pid_of(engine))
        await until(lambda: flag.read_text().count("tried") >= 2)
        assert engine.state == "restarting"
        assert restarts == []
        flag.unlink()
        await engine.ready()
        assert restarts == ["the worker got SIGKILL"]
        expect(await run(engine, [work()]), ("a", 0))


async def test_a_start_that_takes_too_long_fails() -> None:
    engine = Engine(NEVER, start_timeout_s=0.5)
    with pytest.raises(EngineError, match=r"not ready within 0\.5 s"):
        await engine.start()
    assert multiprocessing.active_children() == []


async def test_a_start_can_be_cancelled() -> None:
    engine = Engine(NEVER)
    start = asyncio.create_task(engine.start())
    await until(lambda: bool(multiprocessing.active_children()))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert engine.state == "stopped"
    assert multiprocessing.active_children() == []


async def test_stop_ends_even_a_worker_that_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "STOP_S", 0.1)
    async with running() as engine:
        lost = pid_of(engine)
        sigstop(lost)
    assert not alive(lost)


async def test_stop_wakes_those_who_wait(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    async with running(partial(broken_while, flag)) as engine:
        flag.touch()
        sigkill(pid_of(engine))
        await until(lambda: engine.state == "restarting")
        waiting = asyncio.create_task(engine.ready())
        await asyncio.sleep(0)
        await engine.stop()
        with pytest.raises(EngineError, match="stopped"):
            await waiting


async def test_lives_leave_no_files_open() -> None:
    async with running():
        pass
    before = open_files()
    async with running() as engine:
        for _ in range(2):
            with pytest.raises(WorkerDiedError):
                await run(engine, [work("a", 0, "exit")])
            await engine.ready()
    await until(lambda: open_files() <= before)


async def test_a_session_has_one_chunk_on_its_way() -> None:
    async with running(depth=1) as engine:
        calls = [asyncio.create_task(engine.run([work(session)])) for session in "ab"]
        await asyncio.sleep(0)
        for taken in "ab":  # one is with the worker, one waits
            with pytest.raises(ValueError, match="1 of 2 sessions"):
                await engine.run([work("c"), work(taken, 1)])
        for session, call in zip("ab", calls, strict=True):
            expect((await call).chunks, (session, 0))
        expect(await run(engine, [work("a", 1), work("b", 1), work("c")]), ("a", 1), ("b", 1), ("c", 0))


async def test_a_batch_that_failed_frees_its_sessions() -> None:
    async with running() as engine:
        with pytest.raises(WorkerDiedError):
            await engine.run([work("a", 0, "exit")])
        with pytest.raises(EngineError):
            await engine.run([work("a")])
        await engine.ready()
        expect(await run(engine, [work("a")]), ("a", 0))


async def test_a_chunk_that_waits_and_is_forgotten_is_not_run() -> None:
    """Its batch waits here, for its turn; what follows of the session begins a new stream, in order."""
    async with running(depth=1) as engine:
        expect(await run(engine, [work("a", 0), work("b", 0)]), ("a", 0), ("b", 0))
        held = asyncio.create_task(engine.run([work("c")]))
        waiting = [asyncio.create_task(engine.run(chunks)) for chunks in ([work("a", 1), work("b", 1)], [work("d")])]
        await asyncio.sleep(0)
        engine.forget("a")
        engine.forget("d")
        after = asyncio.create_task(engine.run([work("a", 0), work("d", 0)]))
        expect((await held).chunks, ("c", 0))
        expect((await waiting[0]).chunks, ("b", 1))
        empty = await waiting[1]
        assert (empty.chunks, empty.times) == ([], None)
        expect((await after).chunks, ("a", 0), ("d", 0))


async def test_times_come_with_a_batch() -> None:
    async with running() as engine:
        times = (await engine.run([work("a"), work("b")])).times
        assert times is not None
        assert (times.chunks, times.calls, times.rows, times.decoded) == (2, 2, 4, 2)
        assert min(times.transfer, times.encode, times.denoise, times.decode) > 0
        assert (await engine.run([work("a", 1), work("c", 0, "raise")])).times is None
        assert (await engine.run([])).times is None


@pytest.mark.parametrize("overlap", [False, True])
async def test_many_batches_of_many_sessions(overlap: bool) -> None:
    """Three at a time, in turns, each session's chunk as soon as the one before is there."""
    async with running(partial(FakePipeline, replace(SPEC, overlap=overlap)), depth=3) as engine:

        async def live(sessions: str) -> None:
            for i in range(6):
                expect(await run(engine, [work(session, i) for session in sessions]), *((s, i) for s in sessions))

        await asyncio.gather(*(live(sessions) for sessions in ("ab", "cd", "e", "fghi")))


async def test_a_chunk_without_frames_finishes_what_is_in_flight() -> None:
    async with running() as engine:
        params = replace(PARAMS, steps=4)
        for i in range(3):
            assert await run(engine, [replace(work("a", i), params=params, mode="stream_batch")]) == []
        flush = ChunkWork("a", params, first=False, pixels=(), tag=9)
        expect(await run(engine, [flush]), *(("a", i) for i in range(3)), params=params)
        assert await run(engine, [flush, replace(flush, session="nobody")]) == []


FLOW_SPEC = replace(SPEC, stages=3, flight=3)
FLOW = partial(FakeFlow, FLOW_SPEC, faults={**FAULTS, "lost": Fault("denoise", "lose")})


@asynccontextmanager
async def held(file: Path) -> AsyncIterator[tuple[Engine, Callable[[], None]]]:
    """An engine whose flow stands still until it is let go."""
    async with running(partial(standing_while, file, FLOW_SPEC)) as engine:
        file.touch()  # noqa: ASYNC240 - now: the engine is warm, and nothing is on its way yet
        yield engine, file.unlink


async def all_sent(engine: Engine) -> None:
    """Until all chunks of before are in the worker's flow: what finishes nothing is answered behind them, at once."""
    assert await run(engine, [ChunkWork("nobody", PARAMS, first=False, pixels=())]) == []


async def test_of_a_flow_as_many_chunks_of_a_session_are_on_their_way_as_it_takes(tmp_path: Path) -> None:
    async with held(tmp_path / "flag") as (engine, let_go):
        assert engine.depth == 6
        calls = [asyncio.create_task(engine.run([work("a", i), work("b", i)])) for i in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="1 of 2 sessions of a batch have 3 chunks on their way already"):
            await engine.run([work("c"), work("a", 3)])
        other = asyncio.create_task(engine.run([work("c")]))
        await all_sent(engine)
        assert not any(call.done() for call in (*calls, other))
        let_go()
        for i, call in enumerate(calls):
            expect((await call).chunks, ("a", i), ("b", i))
        expect((await other).chunks, ("c", 0))
        expect(await run(engine, [work("a", 3)]), ("a", 3))


async def test_through_a_flow_a_short_job_overtakes_a_long_one(tmp_path: Path) -> None:
    async with held(tmp_path / "flag") as (engine, let_go):

        async def live(session: str, steps: int) -> None:
            params = replace(PARAMS, steps=steps)
            expect(await run(engine, [replace(work(session), params=params)]), (session, 0), params=params)

        calls = [asyncio.create_task(live(session, steps)) for session, steps in (("a", 4), ("b", 2), ("c", 1))]
        await all_sent(engine)
        let_go()
        first, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert calls[2] in first
        await asyncio.gather(*calls)


async def test_many_batches_of_many_sessions_flow() -> None:
    """Each session has always as many chunks on their way as it may, alone and in company; none comes out of order."""
    async with running(FLOW) as engine:

        async def live(sessions: str, chunks: int) -> None:
            came: list[int] = []

            async def one(i: int) -> None:
                expect(await run(engine, [work(session, i) for session in sessions]), *((s, i) for s in sessions))
                came.append(i)

            under_way: set[asyncio.Task[None]] = set()
            for i in range(chunks):
                under_way.add(asyncio.create_task(one(i)))
                if len(under_way) == engine.spec.flight:
                    done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            await asyncio.gather(*under_way)
            assert came == list(range(chunks))

        await asyncio.gather(*(live(sessions, 12) for sessions in ("ab", "cd", "e", "fghi")))


async def test_a_session_that_is_forgotten_with_chunks_on_their_way_begins_anew_at_once(tmp_path: Path) -> None:
    async with held(tmp_path / "flag") as (engine, let_go):
        expect_nothing = [asyncio.create_task(engine.run([work("a", i)])) for i in range(3)]
        kept = asyncio.create_task(engine.run([work("b", 0)]))
        await all_sent(engine)
        waiting = [asyncio.create_task(engine.run([work(session, 0)])) for session in "ce"]
        too_late = asyncio.create_task(engine.run([work("d", 0), work("b", 1)]))  # waits for its turn
        await asyncio.sleep(0)
        for session in "ad":
            engine.forget(session)
        fresh = [asyncio.create_task(engine.run([work("a", i)])) for i in range(3)]
        await asyncio.sleep(0)
        let_go()
        assert [(await call).chunks for call in expect_nothing] == [[], [], []]
        expect((await kept).chunks, ("b", 0))
        for session, call in zip("ce", waiting, strict=True):
            expect((await call).chunks, (session, 0))
        expect((await too_late).chunks, ("b", 1))
        for i, call in enumerate(fresh):
            expect((await call).chunks, ("a", i))


async def test_a_fault_in_a_flow_is_its_sessions_own() -> None:
    async with running(FLOW) as engine:
        prompts = ("ink", "raise", "ink")
        calls = [asyncio.create_task(engine.run([work("a", i, prompts[i]), work("b", i)])) for i in range(3)]
        answers = [(await call).chunks for call in calls]
        for chunks in answers:
            expect([chunks[1]], ("b", chunks[1].tag))
        expect([answers[0][0]], ("a", 0))
        assert [(chunks[0].error or ("none",))[0] for chunks in answers[1:]] == ["engine_failed", "state_lost"]
        assert all(chunks[0].state_lost for chunks in answers[1:])
        expect(await run(engine, [work("a", 0, first=True), work("b", 3)]), ("a", 0), ("b", 3))
        assert engine.state == "ready"


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("lost", "programmed loss in denoise"),
        ("exit", "the worker exited with status 3"),
        ("hang", "the worker did not answer within 2 s"),
    ],
)
async def test_a_flow_lost_with_many_chunks_on_their_way_is_replaced(prompt: str, reason: str) -> None:
    restarts: list[str] = []
    timeout_s = 2.0 if "answer" in reason else 60.0
    async with running(FLOW, job_timeout_s=timeout_s, on_restart=restarts.append) as engine:
        expect(await run(engine, [work("a", 0), work("b", 0)]), ("a", 0), ("b", 0))
        chunks = [work("a", 1, prompt), work("b", 1), work("b", 2), work("c", 0)]
        calls = [asyncio.create_task(engine.run([chunk])) for chunk in chunks]
        for call in calls:
            with pytest.raises(WorkerDiedError) as caught:
                await call
            assert caught.value.message == reason
        await engine.ready()
        assert restarts == [reason]
        expect(await run(engine, [work("a", 0), work("b", 0)]), ("a", 0), ("b", 0))


@pytest.mark.parametrize(("spec", "depth"), [(SPEC, 2), (replace(SPEC, overlap=True), 3), (FLOW_SPEC, 6)])
def test_the_depth_follows_from_the_pipeline(spec: PipelineSpec, depth: int) -> None:
    assert depth_of(spec) == depth
