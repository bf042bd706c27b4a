"""What the README shows is so: its model example runs, the files it names are there, its commands are understood."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from streamgen import offline

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_model_example_runs() -> None:
    (block,) = (block for block in python_blocks() if "pipelines.build" in block)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    video, result = names["video"], names["result"]
    assert result.shape == video.shape
    assert result.dtype == np.uint8
    assert not np.array_equal(result, video)


def test_the_client_example_is_python() -> None:
    (block,) = (block for block in python_blocks() if "Client" in block)
    compile(block, "README.md", "exec")


def test_the_offline_command_is_understood() -> None:
    (line,) = re.findall(r"streamgen run (.*)", README)[:1]
    parser = argparse.ArgumentParser(exit_on_error=False)
    offline.add_arguments(parser)
    assert parser.parse_args(shlex.split(line)).prompt


def test_every_relative_link_leads_somewhere() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", text):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_script_it_names_is_there() -> None:
    for document in DOCUMENTS:
        for name in re.findall(r"\bscripts/[a-z_]+(?:\.py)?", document.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{document.name} names {name}"
