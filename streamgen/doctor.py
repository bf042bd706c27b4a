"""`streamgen doctor`: what this machine can run, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["ok", "note", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    """missing: the service does not run without it."""
    text: str


@dataclass(frozen=True, slots=True)
class PresetNeeds:
    """What a preset takes of a machine. Bytes of device memory, but for `missing_bytes`."""

    name: str
    weights_bytes: int
    session_bytes: int
    """Of each session at the preset's default size and steps."""
    prompt_bytes: int
    """In addition, while a prompt is read."""
    missing_bytes: int
    """Of its weights, what is not on this machine's disk."""
    needs_gpu: bool


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device."""

    name: str
    total_bytes: int


Placements = Callable[[Sequence[Gpu]], Iterable[Finding]]
"""How presets are best placed on these devices."""


def nowhere(_: Sequence[Gpu]) -> Iterable[Finding]:
    """Where nothing is known of placements."""
    return ()


def examine(presets: Sequence[PresetNeeds] = (), placements: Placements = nowhere) -> Iterator[Finding]:
    """Everything that the service needs or can use, one after the other."""
    yield _python()
    yield Finding("ok", f"{os.cpu_count() or 1} CPU cores, {platform.machine()}, {_memory()}")
    for package, purpose in _PACKAGES.items():
        yield _package(package, purpose)
    yield from _codecs()
    gpus = _gpus()
    yield _gpu(gpus)
    yield from _extras(gpus)
    for preset in presets:
        yield from _preset(preset, gpus)
    if gpus:
        yield from placements(gpus)
    yield _network()
    yield _disk()


_PACKAGES = {
    "aiortc": "WebRTC",
    "av": "video",
    "fastapi": "the HTTP API",
    "uvicorn": "the HTTP server",
    "prometheus_client": "metrics",
    "torch": "the models",
    "safetensors": "the models' weights",
    "diffusers": "the VAE of Wan",
    "transformers": "the text encoder of Wan",
    "ftfy": "the text encoder of Wan",
    "huggingface_hub": "downloads of weights",
    "yaml": "presets",
}

_DISTRIBUTIONS = {"yaml": "pyyaml"}

_EXTRAS = {"gpu": ("xformers", "torch_tensorrt"), "cluster": ("ray",)}
"""Extras of the package that a machine may do without, and what they bring."""


def _python() -> Finding:
    return Finding("ok", f"Python {platform.python_version()} on {platform.system()}")


def _memory() -> str:
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return f"{pages * page_bytes / 2**30:.1f} GiB of memory"


def _package(package: str, purpose: str) -> Finding:
    if importlib.util.find_spec(package) is None:
        return Finding("missing", f"{package} ({purpose}); install it with: pip install 'streamgen[serve]'")
    try:
        version = importlib.metadata.version(_DISTRIBUTIONS.get(package, package))
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return Finding("ok", f"{package} {version} ({purpose})")


def _codecs() -> Iterator[Finding]:
    if importlib.util.find_spec("av") is None:
        return
    av = importlib.import_module("av")
    for codec, name in (("libx264", "H264"), ("libvpx", "VP8")):
        if codec in av.codecs_available:
            yield Finding("ok", f"{name} video ({codec})")
        else:
            yield Finding("missing", f"{name} video: this build of PyAV has no {codec}; install av from PyPI")


def _gpus() -> list[Gpu]:
    if importlib.util.find_spec("torch") is None:
        return []
    cuda = importlib.import_module("torch").cuda
    if not cuda.is_available():
        return []
    return [
        Gpu(cuda.get_device_name(i), cuda.get_device_properties(i).total_memory) for i in range(cuda.device_count())
    ]


def _gpu(gpus: Sequence[Gpu]) -> Finding:
    if not gpus:
        return Finding("note", "no CUDA GPU: preset tiny runs on the CPU")
    return Finding("ok", f"CUDA: {', '.join(f'{gpu.name} with {_gigabytes(gpu.total_bytes)}' for gpu in gpus)}")


def _extras(gpus: Sequence[Gpu]) -> Iterator[Finding]:
    for extra, packages in _EXTRAS.items():
        absent = [package for package in packages if importlib.util.find_spec(package) is None]
        if not absent:
            yield Finding("ok", f"extra {extra}: {', '.join(packages)}")
        elif extra != "gpu" or gpus:
            yield Finding(
                "note", f"extra {extra} lacks {', '.join(absent)}; add it with: pip install 'streamgen[{extra}]'"
            )


def _preset(preset: PresetNeeds, gpus: Sequence[Gpu]) -> Iterator[Finding]:
    """Whether its weights are here, and how many sessions of it the largest device takes."""
    if preset.missing_bytes:
        lacks = f"lacks {_gigabytes(preset.missing_bytes)} of its weights"
        yield Finding("note", f"preset {preset.name} {lacks}; get them with: streamgen models pull {preset.name}")
    if not preset.weights_bytes:
        yield Finding("ok", f"preset {preset.name} has no model, and runs anywhere")
        return
    takes = f"takes {_gigabytes(preset.weights_bytes)}, and {_gigabytes(preset.session_bytes)} a session"
    if preset.prompt_bytes:
        takes += f", and {_gigabytes(preset.prompt_bytes)} while it reads a prompt"
    if not gpus:
        level: Level = "note" if preset.needs_gpu else "ok"
        wants = "; it needs a CUDA GPU to run live" if preset.needs_gpu else ""
        yield Finding(level, f"preset {preset.name} {takes}{wants}")
        return
    gpu = max(gpus, key=lambda gpu: gpu.total_bytes)
    free = gpu.total_bytes - preset.weights_bytes - preset.prompt_bytes
    sessions = max(free // preset.session_bytes, 0)
    if sessions:
        yield Finding("ok", f"preset {preset.name} {takes}: {gpu.name} has memory for {sessions} sessions")
    else:
        yield Finding("note", f"preset {preset.name} {takes}: more than {gpu.name} has; choose a smaller preset")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _network() -> Finding:
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which of our addresses would be used
        except OSError:
            return Finding("note", "network: only loopback; WebRTC finds no address to offer")
        return Finding("ok", f"network address {probe.getsockname()[0]}")


def _disk() -> Finding:
    shared = Path("/dev/shm")  # noqa: S108 - where shared memory lives on Linux
    if not shared.is_dir():
        return Finding("ok", "shared memory of the system's own kind")
    free = shutil.disk_usage(shared).free / 2**20
    if free < 64:
        return Finding("missing", f"only {free:.0f} MiB of shared memory are free; with Docker set --shm-size 256m")
    return Finding("ok", f"{free:.0f} MiB of shared memory")
