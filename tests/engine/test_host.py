"""The engine seen from outside its service's process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import alive, children, parent, until, workers

ROOT = Path(__file__).parents[2]


@contextmanager
def begun(mode: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The process of engine_host.py."""
    command = [sys.executable, "-X", "dev", "-W", "error", str(ROOT / "tests/support/engine_host.py"), mode]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return line.strip()


@contextmanager
def host(mode: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """The same, and its engine's processes, which are ready."""
    with begun(mode, **environment) as process:
        yield process, [int(pid) for pid in said(process).split()]


def all_of(process: subprocess.Popen[str]) -> list[int]:
    """The process, and all that it and its own have started."""
    return [process.pid, *children(process.pid), *workers(process.pid)]


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """A file that keeps slow_import from being imported."""
    file = tmp_path / "hold"
    file.touch()
    return file


def let_go(hold: Path) -> None:
    hold.unlink()


def folders(place: Path) -> list[Path]:
    """What teams have there."""
    return list(place.glob("streamgen-team-*"))


async def gone(pids: list[int]) -> None:
    await until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize("mode", ["lives", "leave"])
async def test_nothing_is_left_and_nothing_is_said(mode: str) -> None:
    with host(mode) as (process, pids):
        everything = all_of(process)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
    assert errors == ("the worker is lost, starting another: the worker got SIGKILL\n" if mode == "lives" else "")
    await gone([*everything, *pids])


async def test_a_worker_that_cannot_be_built_says_so_to_nobody_else() -> None:
    with begun("broken") as process:
        assert said(process).startswith("ValueError: ")
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")


async def test_all_may_be_stopped_for_a_while_together() -> None:
    """As by Ctrl-Z, or with the machine."""
    with host("team") as (process, pids):
        os.killpg(process.pid, signal.SIGSTOP)
        await asyncio.sleep(1.2)
        os.killpg(process.pid, signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert all(alive(pid) for pid in pids)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")


async def test_a_request_to_end_that_reaches_all_processes_leaves_the_one_that_forks() -> None:
    with host("wait") as (process, pids):
        (origin,) = {parent(pid) for pid in pids}
        os.kill(origin, signal.SIGTERM)
        os.kill(pids[0], signal.SIGTERM)
        await until(lambda: workers(process.pid) not in ([], pids))  # there is another
        assert alive(origin)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "the worker is lost, starting another: the worker got SIGTERM\n")
    await gone([origin])


@pytest.mark.parametrize("mode", ["wait", "team"])
async def test_ctrl_c_in_the_terminal_ends_no_process_before_the_service_does(mode: str) -> None:
    with host(mode) as (process, pids):
        everything = all_of(process)
        assert set(pids) < set(everything)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    await gone(everything)


async def test_ctrl_c_while_the_modules_are_imported_that_all_processes_need(hold: Path) -> None:
    with begun("slow", STREAMGEN_TEST_HOLD=str(hold)) as process:
        assert said(process) == "importing"
        os.killpg(process.pid, signal.SIGINT)
        let_go(hold)
        (pid,) = said(process).split()
        rest, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert rest == ""  # it was imported once, and not in the worker again
    await gone([process.pid, int(pid)])


async def test_modules_whose_import_hangs_are_not_waited_for_for_ever(hold: Path) -> None:
    with begun("impatient", STREAMGEN_TEST_HOLD=str(hold)) as process:
        assert {said(process), said(process)} == {"importing", "the worker was not ready within 0.1 s"}
        everything = all_of(process)
        let_go(hold)
        rest, errors = process.communicate(timeout=60)
        assert (process.returncode, rest, errors) == (0, "", "")
    await gone(everything)


@pytest.mark.parametrize("mode", ["wait", "busy", "team"])
async def test_all_end_with_a_service_that_is_killed(mode: str, tmp_path: Path) -> None:
    with host(mode, TMPDIR=str(tmp_path)) as (process, pids):
        everything = all_of(process)
        assert set(pids) < set(everything)
        assert len(folders(tmp_path)) == (mode == "team")
        process.kill()
        _, errors = process.communicate(timeout=60)
        assert errors == ""
    await gone(everything)
    assert folders(tmp_path) == []


async def test_where_nothing_can_be_forked_processes_start_all_the_same(tmp_path: Path) -> None:
    """A socket's path must be short, and the one of the process to fork from is in the folder for temporary files."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with host("lives", TMPDIR=str(folder)) as (process, _):
        _, errors = process.communicate(timeout=60)
    lines = errors.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "the worker cannot be forked, which makes it start later",
        "the worker is lost, starting another",
        "the worker cannot be forked, which makes it start later",
    ]
    assert process.returncode == 0
