from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clips import make_clip

ROOT = Path(__file__).resolve().parent.parent
SMALL = "--clips 1 --frames 9 --size 64x64 --drift-minutes 0.3 --speed-chunks 12 --device cpu".split()


def evaluate(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "evaluate_tiny.py"), *words],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.slow
def test_it_measures_every_aim_and_says_whether_it_is_met(tmp_path: Path) -> None:
    video, report = make_clip(tmp_path / "walk.mp4", range(0, 1200, 40)), tmp_path / "report.json"
    done = evaluate(*SMALL, "--video", str(video), "--json", str(report))
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
    done = evaluate("--video", str(tmp_path / "x.mp4"), "--clips", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("evaluate_tiny: ")
    assert len(done.stderr.splitlines()) == 1
    assert evaluate("--clips", "0").returncode == 2
