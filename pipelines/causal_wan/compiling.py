"""Whether torch can compile models here: for CPUs it writes C++, for GPUs it needs Triton, which needs C++ too."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping

import torch


def compile_hindrance(device: torch.device, environ: Mapping[str, str] = os.environ) -> str | None:
    """Why models cannot be compiled for a device on this machine, None where they can."""
    compiler = environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        return (
            f"to compile the model takes a C++ compiler, and there is no {compiler}; install g++, or set CXX to another"
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "to compile the model for a GPU takes the package triton: pip install triton"
    return None
