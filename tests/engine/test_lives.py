"""Lives of a team, one after the other, as an engine begins them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamgen.core import Params
from streamgen.engine import ChunkWork, Devices, Engine, Team
from streamgen.errors import EngineError, PresetError, WorkerDiedError
from tests.support import teams
from tests.support.processes import alive, open_files, parent, until

PARAMS = Params(prompt="ink", width=64, height=64)
WORK = ChunkWork("a", PARAMS, first=True, pixels=[np.zeros((64, 64, 3), np.uint8)] * 4)


@asynccontextmanager
async def running(devices: Devices, **options: Any) -> AsyncIterator[Engine]:
    engine = Engine(devices, **{"slots": 2, "backoff_s": (0.01, 0.1), **options})
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()
    assert engine.pids == ()
    assert multiprocessing.active_children() == []


def entries(folder: Path) -> int:
    return len(list(folder.iterdir()))


async def answered(engine: Engine) -> None:
    (chunk,) = (await engine.run([WORK])).chunks
    assert chunk.error is None


async def test_a_team_is_one_worker_with_several_processes() -> None:
    async with running(teams.devices("cpu", "cpu", "cpu")) as engine:
        assert len(set(engine.pids)) == 3
        assert engine.pid == engine.pids[0]
        assert all(alive(pid) for pid in engine.pids)
        await answered(engine)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_ten_teams_one_after_the_other_leave_nothing(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lives = 10 if number is signal.SIGKILL else 2
    restarts: list[str] = []
    async with running(teams.devices("cpu", "cpu", "cpu"), on_restart=restarts.append) as engine:
        await answered(engine)

        async def lose(rank: int) -> list[int]:
            lost, so_far = list(engine.pids), len(restarts)
            os.kill(lost[rank], number)
            await until(lambda: len(restarts) > so_far)
            await answered(engine)
            return lost

        everything = await lose(0)
        before = open_files(), threading.active_count()
        for life in range(lives):
            everything += await lose(life % 3)
        assert len(restarts) == lives + 1
        assert not any(alive(pid) for pid in everything)
        assert len(multiprocessing.active_children()) == 3
        assert entries(tmp_path) == 1
        await until(lambda: (open_files(), threading.active_count()) <= before)


async def test_the_process_that_others_are_forked_from_may_die_too() -> None:
    restarts: list[str] = []
    async with running(teams.devices("cpu", "cpu"), on_restart=restarts.append) as engine:
        lost = engine.pids
        (origin,) = {parent(pid) for pid in lost}
        os.kill(origin, signal.SIGKILL)
        await until(lambda: not alive(origin))
        await answered(engine)
        os.kill(lost[1], signal.SIGKILL)
        await until(lambda: bool(restarts))
        await answered(engine)
        assert not any(alive(pid) for pid in lost)


async def test_all_work_under_way_ends_with_the_reason() -> None:
    async with running(teams.devices("cpu", "cpu")) as engine:
        os.kill(engine.pids[1], signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match=r"^rank 1 \(cpu\) got SIGKILL$"):
            while True:
                await engine.run([WORK])


async def test_a_device_that_cannot_be_started_again_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    restarts: list[str] = []
    async with running(teams.sick_while(tmp_path / "sick", "a", "sick", "b"), on_restart=restarts.append) as engine:
        (tmp_path / "sick").touch()
        os.kill(engine.pids[2], signal.SIGKILL)
        await until(lambda: bool(restarts))
        assert restarts == ["rank 2 (b) got SIGKILL; going on without sick, which cannot be started"]
        assert len(engine.pids) == 2
        await answered(engine)
        (tmp_path / "sick").unlink()  # well again, and not asked any more
        os.kill(engine.pids[1], signal.SIGKILL)
        await until(lambda: len(restarts) == 2)
        assert restarts[1] == "rank 1 (b) got SIGKILL"
        assert len(engine.pids) == 2
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [error for error in errors if "left out" in error] == [
        "sick is left out until the service is started again; what is left: a, b"
    ]
    assert sum("rank 1 (sick) failed: RuntimeError: this device is out of order" in error for error in errors) == 2


async def test_the_head_may_be_left_out_too(tmp_path: Path) -> None:
    async with running(teams.sick_while(tmp_path / "sick", "sick", "a")) as engine:
        (tmp_path / "sick").touch()
        os.kill(engine.pids[0], signal.SIGKILL)
        await until(lambda: len(engine.pids) == 1)
        await answered(engine)


async def test_a_start_does_without_what_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "sick").touch()
    async with running(teams.sick_while(tmp_path / "sick", "a", "sick")) as engine:
        assert len(engine.pids) == 1
        await answered(engine)


async def test_a_start_without_any_device_fails_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "sick").touch()
    with pytest.raises(EngineError, match=r"rank 0 \(sick\) failed: RuntimeError: this device is out of order"):
        async with running(teams.sick_while(tmp_path / "sick", "sick", "sick", "sick")):
            pass


async def test_the_last_device_is_tried_again_until_it_can_be_started(tmp_path: Path) -> None:
    sick, restarts = tmp_path / "sick", list[str]()
    async with running(teams.sick_while(tmp_path / "sick", "sick", "sick"), on_restart=restarts.append) as engine:
        sick.touch()
        os.kill(engine.pids[0], signal.SIGKILL)
        await until(lambda: engine.state == "restarting")
        await until(lambda: len(engine._lives._muster.names) == 1)
        assert restarts == []
        sick.unlink()
        await engine.ready()
        assert restarts == ["rank 0 (sick) got SIGKILL; going on without sick, which cannot be started"]


def refused(names: tuple[str, ...]) -> Team:
    raise PresetError("this preset runs on one device")


async def test_a_preset_that_forms_no_teams_says_so() -> None:
    with pytest.raises(EngineError, match="this preset runs on one device"):
        async with running(Devices(("a", "b"), refused)):
            pass
