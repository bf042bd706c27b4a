from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.scripts import run_script

NAME = "media_benchmark"
SMALL = "--case 320x192/vp8 --rounds 1 --seconds 1".split()

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.slow
def test_it_writes_the_report_that_the_contract_says(tmp_path: Path) -> None:
    report = tmp_path / "made" / "report.json"
    done = run_script(NAME, *SMALL, "--json", str(report))
    assert done.returncode == 0, done.stderr
    written = json.loads(report.read_text())
    assert {"command", "machine", "versions", "results"} <= set(written)
    assert written["command"] == "media_benchmark --case 320x192/vp8 --rounds 1 --seconds 1"
    row = written["results"]["320x192/vp8"]
    assert set(row) == {"ours", "stock", "ratio_p50"}
    for side in ("ours", "stock"):
        assert {"p50", "p95", "p99", "cpu"} <= set(row[side])
        assert 0 < row[side]["p50"] <= row[side]["p95"] <= row[side]["p99"]
    assert row["ratio_p50"] == pytest.approx(row["stock"]["p50"] / row["ours"]["p50"], abs=0.01)
    cpu = written["goals"]["320x192/vp8, cpu"]
    assert cpu["met"] == (row["ours"]["cpu"] <= row["stock"]["cpu"])
    assert f"| {'met' if cpu['met'] else 'missed'} |" in done.stdout


@linux
@pytest.mark.slow
@pytest.mark.parametrize("words", ["--slow-consumer 20", "--loss 0.02 --rtt 40"])
def test_other_modes_are_of_ours_alone(tmp_path: Path, words: str) -> None:
    report = tmp_path / "report.json"
    done = run_script(NAME, *SMALL, *words.split(), f"--json={report}")
    assert done.returncode == 0, done.stderr
    written = json.loads(report.read_text())
    row = written["results"]["320x192/vp8"]
    assert set(row) == {"ours", "steadiness"}
    assert set(row["steadiness"]) == {"first_quarter_p50", "last_quarter_p50", "longest_freeze", "back_to_normal"}
    assert len(written["goals"]) == 2
    assert "json" not in written["command"]


@pytest.mark.parametrize(
    "words",
    [
        "--case 832x480",
        "--case 100x100/h264",
        "--rounds 0",
        "--seconds -1",
        "--loss 1.5",
        "--rtt x",
        "--slow-consumer 0",
    ],
)
def test_wrong_usage_is_said_before_anything_is_measured(words: str) -> None:
    done = run_script(NAME, *words.split())
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("media_benchmark")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
