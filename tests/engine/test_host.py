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

from tests.support.processes import alive, until

ROOT = Path(__file__).parents[2]


@contextmanager
def host(mode: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process of engine_host.py and the pid of its ready worker."""
    command = [sys.executable, "-X", "dev", "-W", "error", str(ROOT / "tests/support/engine_host.py"), mode]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield process, int(line)
        finally:
            process.kill()


@pytest.mark.parametrize("mode", ["lives", "leave"])
async def test_nothing_is_left_and_nothing_is_said(mode: str) -> None:
    with host(mode) as (process, pid):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
    assert errors == ("the worker is lost, starting another: the worker got SIGKILL\n" if mode == "lives" else "")
    await until(lambda: not alive(pid))


async def test_ctrl_c_in_the_terminal_does_not_end_the_worker_before_its_service_does() -> None:
    with host("wait") as (process, pid):
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    await until(lambda: not alive(pid))


@pytest.mark.parametrize("mode", ["wait", "busy"])
async def test_the_worker_ends_with_its_service(mode: str) -> None:
    with host(mode) as (process, pid):
        assert alive(pid)
        process.kill()
        _, errors = process.communicate(timeout=60)
        assert errors == ""
    await until(lambda: not alive(pid))
