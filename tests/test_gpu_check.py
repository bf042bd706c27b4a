from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "scripts" / "gpu_check"), *words],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip


def read(path: Path) -> dict[str, object]:
    report = json.loads(path.read_text())
    assert set(report) == {"command", "machine", "versions", "results"}
    return report["results"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_tests_and_benchmark_in_small(tmp_path: Path) -> None:
    done = check("--small", "--out", str(tmp_path), "--parts", "tests", "bench")
    assert done.returncode == 0, done.stderr
    tests = read(tmp_path / "gpu_tests.json")
    assert tests["passed"]
    assert tests["failed"] == []
    bench = read(tmp_path / "gpu_bench.json")
    assert len(bench) == 2
    assert all("chunk" in entry for entry in bench.values())
    assert all(name in (tmp_path / "gpu_bench.md").read_text() for name in bench)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_training_in_small(tmp_path: Path) -> None:
    done = check("--small", "--out", str(tmp_path), "--parts", "train")
    assert done.returncode == 0, done.stderr
    made = read(tmp_path / "gpu_train.json")["made"]
    assert made == ["autoencoder.safetensors", "dit.safetensors", "text.safetensors"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_possible(tmp_path: Path) -> None:
    done = check("--out", str(tmp_path))
    assert done.returncode == 1
    assert "--small runs everything in small on the CPU" in done.stderr
    assert not list(tmp_path.iterdir())
