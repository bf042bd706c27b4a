"""`streamgen doctor`: what this machine can run, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Iterator
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


def examine() -> Iterator[Finding]:
    """Everything that the service needs or can use, one after the other."""
    yield _python()
    yield Finding("ok", f"{os.cpu_count() or 1} CPU cores, {platform.machine()}, {_memory()}")
    for package, purpose in _PACKAGES.items():
        yield _package(package, purpose)
    yield from _codecs()
    yield _gpu()
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
    "yaml": "presets",
}

_DISTRIBUTIONS = {"yaml": "pyyaml"}


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


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("note", "GPU: not looked for without torch")
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return Finding("note", "no CUDA GPU: preset tiny runs on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("ok", f"CUDA: {', '.join(names)}")


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
