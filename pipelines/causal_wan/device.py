"""Where and in which number format to compute."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch
from torch import Tensor

from pipelines.causal_wan.device_name import device_name
from streamgen.errors import PresetError


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means here. Raises PresetError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise PresetError(f"no device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PresetError(f"no device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type not in ("cpu", "cuda"):
        raise PresetError(f"no device {name!r}; use auto, cpu, cuda or cuda:N")
    return device


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs and on CPUs with instructions for it (there about 2.5 times as fast), else float32.

    By what the processor can do and not by a trial, so that the same machine always gives the same output.
    """
    if device.type != "cpu":
        return torch.bfloat16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def describe_device(device: torch.device, dtype: torch.dtype, *, compiled: bool) -> str:
    """Its name, for what was measured on it (see device_name)."""
    if device.type == "cuda":
        model = torch.cuda.get_device_name(device)
    else:
        model = f"cpu: {_cpu_model()}, {torch.get_num_threads()} threads"
    return device_name(model, str(dtype).removeprefix("torch."), compiled=compiled)


SPARE = 0.1
"""Share of the device's free memory that is left for what a batch needs while it runs."""


def states_that_fit(device: torch.device, state_bytes: int) -> int | None:
    """How many stream states of `state_bytes` fit into what is free on a GPU now, weights loaded; None on a CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * (1 - SPARE)) // max(1, state_bytes)


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""  # no Linux
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named.group(1).strip() if named else platform.processor() or platform.machine()


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, made on the CPU, on `device`, without waiting for what runs there."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
