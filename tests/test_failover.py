"""A live session over a ring of processes, each of which dies and hangs in turn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.scripts import run_script


@pytest.mark.slow
def test_a_session_survives_the_death_and_the_hanging_of_each_process(tmp_path: Path) -> None:
    report = tmp_path / "failover.json"
    done = run_script("failover", "--times", "4", "--json", str(report))
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    results = json.loads(report.read_text(encoding="utf-8"))["results"]
    assert results["sessions_lost"] == 0
    hits = [(it["rank"], it["blow"]) for it in results["failures"]]
    assert hits == [(0, "SIGKILL"), (1, "SIGKILL"), (0, "SIGSTOP"), (1, "SIGSTOP")]
    for it in results["failures"]:
        ended = "got SIGKILL" if it["blow"] == "SIGKILL" else r"was silent for 0\.\d s"
        assert re.fullmatch(rf"rank {it['rank']} \(cpu\) {ended}", it["reason"])


def test_a_preset_that_cannot_be_spread_is_said_so() -> None:
    done = run_script("failover", "--preset", "fake")
    assert done.returncode == 1
    assert "fake has no transformer to spread over several devices" in done.stderr
