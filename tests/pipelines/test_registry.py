"""The preset table."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipelines.registry import PRESETS, SPINS, build
from streamgen.errors import PresetError

PROGRAM = """
import os, sys
import pipelines
assert "torch" not in sys.modules, "listing presets must not import torch"
pipelines.build("tiny", "cpu", 1)
print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
"""
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def test_the_table_lists_what_ships() -> None:
    assert {"fake", "passthrough", "tiny", "wan-1.3b", "wan-14b"} <= set(PRESETS)
    assert all(preset.name == name and preset.title for name, preset in PRESETS.items())


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(PresetError, match=r"no preset 'huge'; there are .*tiny"):
        build("huge")


@pytest.mark.parametrize(
    ("chosen", "held"),
    [({}, f"None {SPINS}"), ({"OMP_WAIT_POLICY": "active"}, "active None"), ({"GOMP_SPINCOUNT": "7"}, "None 7")],
)
def test_waiting_threads_spin_briefly_unless_the_user_says_otherwise(chosen: dict[str, str], held: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | chosen
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == held
