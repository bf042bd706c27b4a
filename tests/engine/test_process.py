from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pipelines.fake import FakePipeline
from streamgen.engine.frames import FrameMemory
from streamgen.engine.messages import Ready, Stop
from streamgen.engine.process import WorkerProcess
from streamgen.errors import WorkerDiedError
from tests.support.processes import alive, until


def started(factory: Callable[[], Any] = FakePipeline) -> WorkerProcess:
    return WorkerProcess(pickle.dumps(factory), FrameMemory(), 1)


async def test_worker_becomes_ready_and_stops_when_asked() -> None:
    process = started()
    ready = await process.receive()
    assert isinstance(ready, Ready)
    assert ready.spec == FakePipeline().spec
    process.send(Stop())
    assert await process.ended == "the worker exited with status 0"
    for _ in range(2):
        with pytest.raises(WorkerDiedError, match="status 0"):
            await process.receive()
    with pytest.raises(WorkerDiedError):
        process.send(Stop())
    process.kill("too late")


async def test_an_interrupt_at_any_time_leaves_the_worker_alone(capfd: pytest.CaptureFixture[str]) -> None:
    process = started()
    await until(lambda: process.pid is not None)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)  # its interpreter begins only now
    assert isinstance(await process.receive(), Ready)
    os.kill(process.pid, signal.SIGINT)
    process.send(Stop())
    assert await process.ended == "the worker exited with status 0"
    assert capfd.readouterr().err == ""


async def test_a_kill_before_the_process_has_started_counts() -> None:
    process = started()
    process.kill("not wanted")
    process.kill("the first reason stays")
    assert await process.ended == "not wanted"
    assert process.pid is not None
    assert not alive(process.pid)


async def test_a_signal_is_named() -> None:
    process = started()
    await process.receive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert await process.ended == "the worker got SIGTERM"


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (partial(os._exit, 4), "the worker exited with status 4"),
        (partial(sys.exit, 5), "the worker exited with status 5"),
        (partial(int, "nonsense"), "ValueError: .*nonsense"),
    ],
)
async def test_a_pipeline_that_cannot_be_built(
    factory: Callable[[], Any], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    process = started(factory)
    with pytest.raises(WorkerDiedError, match=reason) as caught:
        await process.receive()
    assert "\n" not in caught.value.message
    assert capfd.readouterr().err == ""


async def test_a_worker_that_is_stopped_while_it_builds_does_not_wait_for_it() -> None:
    process = started(partial(time.sleep, 3600))
    await until(lambda: process.pid is not None)
    process.kill("enough")
    assert await process.ended == "enough"
