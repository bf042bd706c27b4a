"""What scripts/gpu_check runs: the GPU tests, the engine benchmark, a short training of the tiny preset.

    scripts/gpu_check                          all parts, under nine minutes, into benchmarks/results/
    scripts/gpu_check --parts tests bench
    scripts/gpu_check --small --out DIR        everything in small on the CPU

Each part writes DIR/gpu_{part}.json (what was run, on what, with which results); bench a table in Markdown as well.
Exit status: 0 all well, 1 something failed, 2 wrong usage. A part that lacks a package is left out and says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.bench.report import markdown
from pipelines.registry import SPINS
from streamgen.bench.machine import machine, versions

TOTAL = 530
"""Seconds for all parts together."""
LEAST = 45
"""With fewer seconds left no further line of the benchmark is begun."""
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "diffusers", "numpy", "streamdiffusionv2")
TRAINING_NEEDS = ("cv2", "skimage", "sklearn")
PYTEST_SETTINGS = "[pytest]\nmarkers =\n    gpu: wants an NVIDIA GPU\n"

BENCH = (
    "--preset wan-1.3b --size 512x512 832x480 --steps 1 2 4 --rounds 10 --patience 1.5 --seconds 75",
    "--preset wan-14b --size 512x512 832x480 --steps 1 2 4 --rounds 8 --patience 2 --seconds 110",
    "--preset wan-1.3b wan-14b --size 512x512 --steps 1 --compile --alone --rounds 8 --patience 1.5 --seconds 60",
    "--preset wan-1.3b --size 512x512 --codec paired wan --rounds 8 --patience 1.5 --seconds 30 --steps 1",
)
"""Arguments of the engine benchmark, which begins no case after so many seconds; the targets come first."""
SMALL_BENCH = (
    "--dim 128 --layers 1 --text-dim 32 --text-len 16 --size 64x64 --steps 1 2 --dtype float32 --device cpu --rounds 2",
)
TRAINING = (
    "--clips 48 --autoencoder-steps 40 --autoencoder-batch 8 --decoder-steps 40 --text-steps 200 --dit-steps 44"
    " --dit-batch 16 --device cuda"
)
SMALL_TRAINING = (
    "--clips 1 --autoencoder-steps 1 --autoencoder-batch 1 --decoder-steps 1 --text-steps 1 --dit-steps 11"
    " --dit-batch 2 --device cpu"
)


@dataclass(frozen=True)
class Check:
    """What to do, and where the results go."""

    out: Path
    small: bool
    until: float
    """When all has to be over, on time.monotonic()."""

    def tests(self) -> bool:
        """tests/gpu, without the settings in pyproject.toml, which want plugins."""
        with tempfile.TemporaryDirectory() as folder:
            settings, record = Path(folder) / "pytest.ini", Path(folder) / "record.xml"
            settings.write_text(PYTEST_SETTINGS, encoding="utf-8")
            words = ["-m", "pytest", "-c", str(settings), "--rootdir", str(ROOT), "--import-mode=importlib", "-m",
                     "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={record}", "tests/gpu"]  # fmt: skip
            if self.small:
                words += ["-k", "alone and not wan"]
            status = self._python(words, 150, {"STREAMGEN_GPU_TESTS": "cpu"} if self.small else {})
            results = _outcomes(record) if record.exists() else {"error": "pytest did not get to its end"}
        self._write("tests", "pytest -m gpu tests/gpu", results)
        return status == 0 and bool(results.get("passed"))

    def bench(self) -> bool:
        """The engine benchmark, one process for each line, so that each begins with an empty GPU."""
        lines, results, well = SMALL_BENCH if self.small else BENCH, dict[str, Any](), True
        for line in lines:
            if self._left() < LEAST:
                results[f"engine_benchmark {line}"] = {"skipped": "no time left for it"}
                continue
            with tempfile.TemporaryDirectory() as folder:
                report = Path(folder) / "report.json"
                words = [str(ROOT / "scripts" / "engine_benchmark.py"), *line.split(), "--json", str(report)]
                well = self._python(words, 170) == 0 and well
                if report.exists():
                    results |= json.loads(report.read_text(encoding="utf-8"))["results"]
        self._write("bench", "; ".join(f"engine_benchmark {line}" for line in lines), results)
        table = markdown(results, machine(), versions(PACKAGES))
        (self.out / "gpu_bench.md").write_text(table, encoding="utf-8")
        return well and bool(results)

    def train(self) -> bool:
        """A few steps of every part of the tiny preset's training."""
        missing = [name for name in TRAINING_NEEDS if importlib.util.find_spec(name) is None]
        if missing:
            say(f"training left out: it needs {', '.join(missing)}")
            self._write("train", "", {"skipped": f"needs {', '.join(missing)}"})
            return True
        options = SMALL_TRAINING if self.small else TRAINING
        if self._left() < 2 * LEAST:
            self._write("train", f"train_tiny {options}", {"skipped": "no time left for it"})
            return True
        with tempfile.TemporaryDirectory() as folder:
            script = str(ROOT / "scripts" / "train_tiny.py")
            words = [script, *options.split(), "--work", folder, "--out", f"{folder}/made"]
            began = time.monotonic()
            status = self._python(words, 120)
            made = sorted(path.name for path in Path(folder, "made").glob("*.safetensors"))
        results = {"seconds": round(time.monotonic() - began, 1), "status": status, "made": made}
        self._write("train", f"train_tiny {options}", results)
        return status == 0 and len(made) == 3

    def _left(self) -> float:
        """Seconds until all has to be over."""
        return self.until - time.monotonic()

    def _python(self, words: list[str], limit: float, environment: Mapping[str, str] | None = None) -> int:
        """Exit status of Python with `words`, run in the repository's root; 124 where it ran past `limit` seconds."""
        limit = max(min(limit, self._left()), 1.0)
        known = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **(environment or {})}
        if self.small:  # on a machine that other programs use as well, threads that spin would starve each other
            known.setdefault("GOMP_SPINCOUNT", str(SPINS))
        try:
            return subprocess.run([sys.executable, *words], cwd=ROOT, env=known, timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:
            say(f"stopped after {limit:.0f} s: {' '.join(words[:3])} ...")
            return 124

    def _write(self, part: str, command: str, results: Mapping[str, Any]) -> None:
        report = {"command": command, "machine": machine(), "versions": versions(PACKAGES), "results": results}
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"gpu_{part}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    args = _parser().parse_args()
    if not args.small and not torch.cuda.is_available():
        say("there is no GPU here that torch can use; --small runs everything in small on the CPU")
        return 1
    check = Check(args.out, args.small, time.monotonic() + TOTAL)
    parts: dict[str, Callable[[], bool]] = {"tests": check.tests, "bench": check.bench, "train": check.train}
    failed = []
    for name in args.parts:
        began = time.monotonic()
        say(f"== {name}")
        if not parts[name]():
            failed.append(name)
        say(f"== {name}: {'failed' if name in failed else 'done'}, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _outcomes(record: Path) -> dict[str, Any]:
    """Counts, and the names of what failed, from pytest's own record."""
    cases = list(ET.parse(record).iter("testcase"))  # noqa: S314 - our own pytest wrote it
    failed = [case.get("name", "") for case in cases if {child.tag for child in case} & {"failure", "error"}]
    skipped = [case.get("name", "") for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": failed,
        "skipped": skipped,
        "seconds": {case.get("name", ""): float(case.get("time", 0)) for case in cases},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("tests", "bench", "train"), default=["tests", "bench", "train"])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR")
    parser.add_argument("--small", action="store_true", help="in small, on the CPU")
    return parser


if __name__ == "__main__":
    sys.exit(main())
