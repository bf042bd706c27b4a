from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.clips import make_clip
from tests.support.scripts import run_script

NAME = "evaluate_tiny"
SMALL = "--clips 1 --frames 9 --size 64x64 --drift-minutes 0.3 --speed-chunks 12 --device cpu".split()


@pytest.mark.slow
def test_it_measures_every_aim_and_says_whether_it_is_met(tmp_path: Path) -> None:
    video, report = make_clip(tmp_path / "walk.mp4", range(0, 1200, 40)), tmp_path / "report.json"
    done = run_script(NAME, *SMALL, "--video", str(video), "--json", str(report))
    assert done.returncode == 0, done.stderr
    written = json.loads(report.read_text())
    assert set(written) == {"command", "machine", "versions", "results"}
    assert str(tmp_path) not in written["command"]
    results = written["results"]
    assert set(results["targets"]) <= set(results["figures"])
    assert set(results["styles"]) == set(results["autoencoder"]) == {"walk", "generated-0"}
    assert results["targets"]["weights_mb"]["met"]
    assert "| pencil |" in done.stdout


def test_a_file_that_is_no_video_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_text("no video")
    done = run_script(NAME, "--video", str(tmp_path / "x.mp4"), "--clips", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("evaluate_tiny: ")
    assert len(done.stderr.splitlines()) == 1
    assert run_script(NAME, "--clips", "0").returncode == 2


def test_an_unknown_device_is_said_before_anything_is_measured() -> None:
    done = run_script(NAME, "--device", "tpu")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["evaluate_tiny: no device 'tpu'; use auto, cpu, cuda or cuda:N"]
