from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.fake import FakePipeline
from streamgen.engine import Team
from streamgen.engine.crew import Crew
from streamgen.engine.frames import FrameMemory
from streamgen.engine.messages import Ready, Stop
from streamgen.engine.process import preload
from streamgen.engine.team import alone
from streamgen.errors import WorkerDiedError
from tests.support import teams
from tests.support.processes import alive, open_files, until


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are."""
    preload([])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def found(folder: Path, name: str) -> int:
    return len(list(folder.glob(name)))


@asynccontextmanager
async def crew(names: tuple[str, ...], team: Team) -> AsyncIterator[Crew]:
    memory = FrameMemory()
    made = Crew(names, team, memory, 1)
    try:
        yield made
        assert made.ended.done()
    finally:
        made.kill("the test has failed")
        await made.ended
        memory.close()
    assert not any(alive(pid) for pid in made.pids)


def single(factory: Callable[[], Any] = FakePipeline) -> Any:
    devices = alone(factory)
    return crew(devices.names, devices.team(devices.names))


def team(*names: str, **ill: teams.Ill) -> Any:
    return crew(names, teams.team(names, ill))


async def ready(made: Crew) -> None:
    assert isinstance(await made.receive(), Ready)


async def test_a_worker_becomes_ready_and_stops_when_asked(folder: Path) -> None:
    async with single() as made:
        message = await made.receive()
        assert isinstance(message, Ready)
        assert message.spec == FakePipeline().spec
        assert found(folder, "streamgen-team-*") == 0
        made.send(Stop())
        assert await made.ended == "the worker exited with status 0"
        for _ in range(2):
            with pytest.raises(WorkerDiedError, match="status 0"):
                await made.receive()
        with pytest.raises(WorkerDiedError):
            made.send(Stop())
        made.kill("too late")


async def test_an_interrupt_at_any_time_leaves_the_worker_alone() -> None:
    async with single() as made:
        await until(lambda: bool(made.pids))
        os.kill(made.pids[0], signal.SIGINT)  # it begins only now
        await ready(made)
        os.kill(made.pids[0], signal.SIGINT)
        made.send(Stop())
        assert await made.ended == "the worker exited with status 0"


async def test_a_kill_before_the_process_has_started_counts() -> None:
    async with single() as made:
        made.kill("not wanted")
        made.kill("the first reason stays")
        assert await made.ended == "not wanted"


async def test_a_signal_is_named() -> None:
    async with single() as made:
        await ready(made)
        os.kill(made.pids[0], signal.SIGTERM)
        assert await made.ended == "the worker got SIGTERM"
        assert made.culprit is None


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (partial(os._exit, 4), "the worker exited with status 4"),
        (partial(sys.exit, 5), "the worker exited with status 5"),
        (partial(int, "nonsense"), "ValueError: .*nonsense"),
        (lambda: FakePipeline(teams.SPEC), "the pipeline's factory cannot be sent to a worker: .*"),
    ],
)
async def test_a_pipeline_that_cannot_be_built(factory: Callable[[], Any], reason: str) -> None:
    async with single(factory) as made:
        with pytest.raises(WorkerDiedError, match=reason) as caught:
            await made.receive()
        assert "\n" not in caught.value.message


async def test_a_worker_that_is_killed_while_it_builds_does_not_wait_for_it() -> None:
    async with single(partial(time.sleep, 3600)) as made:
        await until(lambda: bool(made.pids))
        made.kill("enough")
        assert await made.ended == "enough"


async def test_a_process_has_the_environment_of_its_service_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        monkeypatch.setenv("STREAMGEN_TEST_NAME", name)
        async with single(teams.named_by_environment) as made:
            message = await made.receive()
            assert isinstance(message, Ready)
            assert message.spec.name == name
            made.kill("seen")
            await made.ended


async def test_a_team_meets_in_a_folder_that_goes_with_it(folder: Path) -> None:
    async with team("cpu", "cpu", "cpu") as made:
        await ready(made)
        assert len(set(made.pids)) == 3
        assert found(folder, "streamgen-team-*/rendezvous") == 1
        made.send(Stop())
        assert await made.ended == "rank 0 (cpu) exited with status 0"
    assert found(folder, "streamgen-team-*") == 0


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize(("number", "how"), [(signal.SIGKILL, "got SIGKILL"), (signal.SIGSTOP, "was silent for 0.7 s")])
async def test_whichever_process_is_lost_the_reason_names_it_and_all_are_ended(
    rank: int, number: signal.Signals, how: str
) -> None:
    """The loss of one makes the others fail, who say so themselves; that is not the reason."""
    async with team("cpu", "cpu", "cpu") as made:
        await ready(made)
        os.kill(made.pids[rank], number)
        assert await made.ended == f"rank {rank} (cpu) {how}"
        assert made.culprit is None


async def test_a_process_that_hangs_with_the_interpreters_lock_in_hand_is_silent() -> None:
    async with team("a", "b", b="holds") as made:
        await ready(made)
        assert await made.ended == "rank 1 (b) was silent for 0.7 s"


@pytest.mark.parametrize(
    ("ill", "reason", "culprit"),
    [
        ({"c": "raises"}, "rank 2 (c) failed: RuntimeError: this device is out of order", 2),
        ({"a": "raises"}, "rank 0 (a) failed: RuntimeError: this device is out of order", 0),
        ({"b": "exits"}, "rank 1 (b) exited with status 7", 1),
        ({"b": "deaf", "c": "exits"}, "rank 2 (c) exited with status 7", 2),
    ],
)
async def test_a_process_that_does_not_start_is_the_culprit(
    ill: dict[str, teams.Ill], reason: str, culprit: int
) -> None:
    async with team("a", "b", "c", **ill) as made:
        with pytest.raises(WorkerDiedError) as caught:
            await made.receive()
        assert caught.value.message == reason
        assert made.culprit == culprit


async def test_a_process_that_is_done_before_the_head_ends_the_team_too() -> None:
    async with team("a", "b", b="done") as made:
        assert await made.ended == "rank 1 (b) exited with status 0"
        assert made.culprit == 1


async def test_a_process_that_does_not_listen_is_no_obstacle() -> None:
    async with team("a", "b", b="deaf") as made:
        await ready(made)
        made.send(Stop())
        assert await made.ended == "rank 0 (a) exited with status 0"


async def test_a_team_of_another_size_than_its_devices_is_none() -> None:
    async with crew(("a", "b"), teams.team(("a",))) as made:
        assert await made.ended == "a team of 1 processes for 2 devices"


async def test_lives_of_a_team_leave_nothing_open(folder: Path) -> None:
    async with team("cpu", "cpu", "cpu") as made:
        made.kill("the first one starts what stays")
        await made.ended
    before = open_files()
    for _ in range(3):
        async with team("cpu", "cpu", "cpu") as made:
            await ready(made)
            os.kill(made.pids[1], signal.SIGKILL)
            await made.ended
    await until(lambda: open_files() <= before)
    assert found(folder, "streamgen-team-*") == 0
