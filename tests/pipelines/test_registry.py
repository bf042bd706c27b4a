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
IMPORTS = """
import importlib, sys, threading
if "torch" in sys.argv:
    import torch
    def refuse(*_):
        raise AssertionError("a GPU was looked for")
    for name in ("_lazy_init", "is_available", "device_count", "get_device_properties"):
        setattr(torch.cuda, name, refuse)
for module in sys.argv[1:]:
    importlib.import_module(module)
assert threading.active_count() == 1
"""
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def test_the_table_lists_what_ships() -> None:
    assert {"fake", "passthrough", "tiny", "wan-1.3b", "wan-14b"} <= set(PRESETS)
    assert all(preset.name == name and preset.title for name, preset in PRESETS.items())


@pytest.mark.parametrize("modules", sorted({preset.preload for preset in PRESETS.values()}))
def test_a_process_with_what_a_preset_preloads_can_be_forked(modules: tuple[str, ...]) -> None:
    """Nothing looks for a GPU, and no thread is left, when the modules are imported."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *modules], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_builds_a_preset_is_among_what_it_preloads() -> None:
    assert all(preset.builder.partition(":")[0] in preset.preload for preset in PRESETS.values())


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
