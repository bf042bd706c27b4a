from __future__ import annotations

import json
from pathlib import Path

from tests.support.scripts import run_script

NAME = "engine_benchmark"
SMALL = "--dim 128 --layers 1 --text-dim 16 --text-len 8 --size 64x64 --dtype float32 --device cpu --rounds 1".split()


def test_it_writes_the_report_that_the_contract_says(tmp_path: Path) -> None:
    report, table = tmp_path / "made" / "report.json", tmp_path / "table.md"
    done = run_script(NAME, *SMALL, "--alone", "--steps", "1", "--json", str(report), f"--markdown={table}")
    assert done.returncode == 0, done.stderr
    written = json.loads(report.read_text())
    assert set(written) == {"command", "machine", "versions", "results"}
    assert str(tmp_path) not in written["command"]
    assert "--steps 1" in written["command"]
    (entry,) = written["results"].values()
    for what in ("dit", "chunk"):
        assert {"ms", "flops_share"} <= set(entry[what])
    assert entry["fps"] > 0
    assert table.read_text() == done.stdout


def test_wrong_usage_is_one_line() -> None:
    done = run_script(NAME, "--preset", "tiny")
    assert done.returncode == 2
    assert done.stderr.startswith("engine_benchmark: tiny has a codec")
    assert len(done.stderr.splitlines()) == 1
    assert run_script(NAME, "--size", "100x100").returncode == 2
