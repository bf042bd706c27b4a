from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from streamgen.bench.footprint import cpu_seconds, footprint
from streamgen.bench.latency import Outcome
from streamgen.bench.measure import Figures
from streamgen.bench.soak import GROWTH_MIB, Soak
from tests.support.scripts import run_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_footprint_counts_what_there_is() -> None:
    before = footprint(os.getpid())
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with socket.socket() as _, Path(__file__).open() as _:
        during = footprint(os.getpid())
    stop.set()
    thread.join()
    assert during.threads == before.threads + 1
    assert during.sockets == before.sockets + 1
    assert during.files == before.files + 2
    assert during.mib > 10
    assert [line.partition(":")[0] for line in during.leaks(before)] == ["threads", "files", "sockets"]
    for _ in range(200):  # a thread that was joined is listed a moment longer
        if not footprint(os.getpid()).leaks(before):
            break
        time.sleep(0.01)
    assert footprint(os.getpid()).leaks(before) == []
    assert cpu_seconds(os.getpid()) > 0


def test_what_has_ended_has_no_footprint() -> None:
    with pytest.raises(ProcessLookupError):
        footprint(2**22 + 1)


def seen(*mib: float, sockets_after: int = 0) -> Soak:
    empty = replace(footprint(os.getpid()), sockets=0)
    during = tuple(replace(empty, mib=value) for value in mib)
    return Soak(empty, during, replace(empty, sockets=sockets_after), Outcome((), None))


def test_growth_and_leaks_are_faults_and_noise_is_none() -> None:
    assert seen(100, 90, 101, 100, 99, 102, 100, 101).faults() == []
    (growth,) = seen(*(100 + 2 * GROWTH_MIB * i / 3 for i in range(8))).faults()
    assert growth.startswith("memory")
    (leak,) = seen(100, sockets_after=2).faults()
    assert leak == "sockets: 0 before, 2 after"


def of_session(**changes: object) -> Figures:
    values = dict.fromkeys(Figures.__slots__, 0) | {"frames_sent": 100, "frames_received": 100}
    return Figures(**(values | {"first_5s_p50": 50.0, "last_5s_p50": 52.0} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"last_5s_p50": 90.0}, "session 1: 50 ms at first, 90 at last"),
        ({"last_5s_p50": None}, "session 1: no result could be read"),
        ({"frames_received": 80}, "session 1: 80 results of 100 frames"),
        ({"foreign": 1}, "session 1: 1 results were another session's"),
    ],
)
def test_what_is_wrong_with_a_session_is_a_fault(changes: dict[str, object], fault: str | None) -> None:
    run = seen(100.0)
    run = replace(run, outcome=Outcome((of_session(**changes),), None))
    assert run.faults() == ([] if fault is None else [fault])


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_sessions_that_have_gone_leave_nothing(tmp_path: Path) -> None:
    """Threads, sockets, open files and shared memory of the server, by count."""
    report = tmp_path / "soak.json"
    done = run_script(
        "soak", *f"--minutes 0.15 --sessions 3 --fps 15 --width 192 --height 128 --interval 1 --json {report}".split()
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(report.read_text())["results"]
    assert len(results["sessions"]) == 3
    assert all(session["frames_received"] > 60 for session in results["sessions"])
    for count in ("threads", "sockets", "files", "shared", "processes"):
        assert results["after"][count] <= results["before"][count]
    assert results["most"]["sockets"] > results["after"]["sockets"]  # and they did have some
