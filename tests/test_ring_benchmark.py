from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.scripts import run_script


@pytest.mark.slow
def test_a_run_prints_a_table_and_writes_a_report_and_plots(tmp_path: Path) -> None:
    report, page = tmp_path / "ring.json", tmp_path / "ring.html"
    words = ["--stages", "1", "2", "--steps", "2", "--chunks", "4", "--block-ms", "1", "--patience-s", "1"]
    done = run_script("ring_benchmark", *words, "--json", str(report), "--html", str(page))
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:5]] == ["one", "paper", "even", "ours"]
    results = json.loads(report.read_text(encoding="utf-8"))["results"]
    assert [(ring["order"], ring["stages"]) for ring in results["rings"]] == [
        ("one", 1), ("paper", 2), ("even", 2), ("ours", 2),
    ]  # fmt: skip
    for ring in results["rings"]:
        assert sum(ring["split"]) == 40
        assert ring["ratio"] > 0
        assert ring["latency_ms"] > 0
    for name in ("slowed", "codecs"):
        assert sum(results[name]["split"]) == sum(results[name]["optimum"]) == 40
    assert page.read_text(encoding="utf-8").count("<svg") == 2


@pytest.mark.parametrize("words", [["--stages", "0"], ["--steps", "5"], ["--chunks", "none"]])
def test_what_cannot_be_measured_is_refused(words: list[str]) -> None:
    done = run_script("ring_benchmark", *words)
    assert done.returncode == 2
    assert words[0] in done.stderr
