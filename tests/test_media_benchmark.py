from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.scripts import run_script

SMALL = "--case 192x128/vp8 --seconds 1 --rounds 1"


@pytest.mark.slow
def test_both_sides_are_measured_in_turn(tmp_path: Path) -> None:
    report = tmp_path / "made" / "report.json"
    done = run_script("media_benchmark", *f"{SMALL} --json {report}".split())
    assert done.returncode == 0, done.stderr
    written = json.loads(report.read_text())
    assert written["command"] == f"media_benchmark {SMALL}"
    (case,) = written["results"].values()
    for side in ("ours", "stock"):
        figures = case[side]
        assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"]
        assert figures["cpu"] > 0
        assert figures["fps"] > 15
    assert case["ratio_p50"] == pytest.approx(case["stock"]["p50"] / case["ours"]["p50"], abs=0.02)
    assert "192x128/vp8, cpu" in written["goals"]
    assert "stock" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["--loss 0.03 --rtt 20", "--slow-consumer 10"])
def test_other_modes_tell_of_freezes_and_growth(tmp_path: Path, mode: str) -> None:
    report = tmp_path / "report.json"
    done = run_script("media_benchmark", *f"{SMALL} {mode} --json={report}".split())
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(report.read_text())["results"].values()
    assert "stock" not in case
    assert case["steadiness"]["longest_freeze"] > 0
    assert "json" not in json.loads(report.read_text())["command"]


@pytest.mark.parametrize(
    "words",
    ["--case huge", "--case 100x100/h264", "--rounds 0", "--seconds -1", "--loss 1.5", "--rtt x", "--slow-consumer 0"],
)
def test_wrong_usage_is_said_before_anything_is_measured(words: str) -> None:
    done = run_script("media_benchmark", *words.split())
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("media_benchmark")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
