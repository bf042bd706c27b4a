"""The Python programs under scripts/, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_script(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """scripts/NAME.py with these arguments, and what it printed."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
