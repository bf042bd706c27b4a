import sys
from pathlib import Path

import pytest

from streamgen.bench.server import running, serve_command
from streamgen.errors import ConnectError


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


READY = "print('loading', flush=True); print('ready: http://127.0.0.1:1234', flush=True); import time; "


async def test_the_url_is_read_from_what_the_server_prints():
    async with running(python(READY + "time.sleep(60)"), 30) as server:
        assert server.url == "http://127.0.0.1:1234"


async def test_a_server_that_talks_without_end_is_not_blocked():
    async with running(python(READY + "[print('x' * 1000) for _ in range(1000)]; time.sleep(60)"), 30):
        pass


async def test_a_server_that_fails_says_why():
    with pytest.raises(ConnectError, match=r"did not start \(exit 3\): no such preset"):
        async with running(python("import sys; print('no such preset', file=sys.stderr); sys.exit(3)"), 30):
            pass


async def test_a_server_that_is_never_ready():
    with pytest.raises(ConnectError, match=r"not ready within 0\.3 s"):
        async with running(python("import time; time.sleep(60)"), 0.3):
            pass


async def test_a_program_that_cannot_be_run():
    with pytest.raises(ConnectError, match="cannot be started"):
        async with running(["/no/such/program"], 1):
            pass


async def test_the_server_is_asked_to_end_also_when_the_run_fails(tmp_path: Path):
    ended = tmp_path / "ended"
    tidy = f"import signal; signal.signal(signal.SIGTERM, lambda *_: (open({str(ended)!r}, 'w'), exit(0))); "
    with pytest.raises(RuntimeError, match="the run"):
        async with running(python(tidy + READY + "time.sleep(60)"), 30):
            raise RuntimeError("the run failed")
    assert ended.exists()


def test_it_is_our_own_server_on_a_free_port():
    assert serve_command(["--preset", "tiny"])[1:] == [
        *("-m", "streamgen.cli", "serve", "--port", "0"),
        *("--preset", "tiny"),
    ]
