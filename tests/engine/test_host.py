"""The engine seen from outside its service's process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import alive, children, until, workers

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


@pytest.mark.parametrize("mode", ["wait", "team"])
async def test_ctrl_c_in_the_terminal_ends_no_process_before_the_service_does(mode: str) -> None:
    with host(mode) as (process, pids):
        everything = all_of(process)
        assert set(pids) < set(everything)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    await gone(everything)


async def test_ctrl_c_while_the_modules_are_imported_that_all_processes_need() -> None:
    with begun("slow") as process:
        assert said(process) == "importing"
        os.killpg(process.pid, signal.SIGINT)
        (pid,) = said(process).split()
        rest, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert rest == ""  # it was imported once, and not in the worker again
    await gone([process.pid, int(pid)])


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
