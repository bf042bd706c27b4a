from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamgen.costfile import CostFile
from streamgen.simulation.workload import DEVICE
from tests.support.scripts import run_script


def test_a_sweep_prints_a_table_and_writes_a_report_and_plots(tmp_path: Path) -> None:
    report, page = tmp_path / "sweep.json", tmp_path / "sweep.html"
    words = ["--seconds", "6", "--loads", "0.3", "2", "--policies", "deadline", "fifo", "--trace", "bursty"]
    done = run_script("simulate_load", *words, "--json", str(report), "--html", str(page))
    assert done.returncode == 0, done.stderr
    assert sum(line.startswith(("deadline", "fifo")) for line in done.stdout.splitlines()) == 4
    results = json.loads(report.read_text(encoding="utf-8"))["results"]
    assert results["fifo"]["2"]["miss_rate"] > results["deadline"]["2"]["miss_rate"]
    assert {"miss_rate", "goodput", "p50", "p95", "p99", "fairness"} <= results["deadline"]["0.3"].keys()
    assert "<svg" in page.read_text(encoding="utf-8")


def test_capacity_is_planned_from_the_costs_that_a_service_saved(tmp_path: Path) -> None:
    file = CostFile(tmp_path, "some", "device")
    file.save(DEVICE.costs)
    words = ["--capacity", "--costs", str(file.path), "--seconds", "5", "--set", "fps=30", "--set", "steps=4"]
    done = run_script("simulate_load", *words)
    assert done.returncode == 0, done.stderr
    assert "30 fps, 4 steps" in done.stdout
    assert "on one device" in done.stdout


def test_devices_in_a_row_are_simulated() -> None:
    words = ["--capacity", "--stages", "3", "--seconds", "5", "--set", "fps=30", "--set", "steps=4"]
    done = run_script("simulate_load", *words)
    assert done.returncode == 0, done.stderr
    assert "on 3 devices in a row, all there all the time" in done.stdout
    done = run_script("simulate_load", "--stages", "2", "--seconds", "5", "--loads", "0.5", "--policies", "full")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Load on 2 devices in a row")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--capacity", "--costs", "nowhere.json"], "cannot be read"),
        (["--capacity", "--cost", "1+2,3"], "must be four"),
        (["--capacity", "--set", "fps=0"], "fps"),
        (["--capacity", "--set", "colour=1"], "unknown parameter"),
        (["--stages", "0"], "stages"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(words: list[str], problem: str) -> None:
    done = run_script("simulate_load", *words)
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
