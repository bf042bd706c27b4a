"""Memory: what a contender's stream holds and needs on a GPU, and the most that this process ever held."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

MIB = 2**20


@dataclass(frozen=True)
class StreamMemory:
    """Bytes on a GPU."""

    held: int
    """From chunk to chunk."""
    passing: int
    """At most in addition while a chunk is worked on."""


def stream_memory(fill: Callable[[], object], work: Callable[[], object], device: torch.device) -> StreamMemory | None:
    """Of what `fill` makes and `work` then needs; None on a CPU, where nobody counts."""
    if device.type != "cuda":
        fill()
        return None
    before = torch.cuda.memory_allocated(device)
    fill()
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return StreamMemory(held - before, torch.cuda.max_memory_allocated(device) - held)


def weights_bytes(tensors: Iterable[Tensor]) -> int:
    """Of all of them."""
    return sum(tensor.nbytes for tensor in tensors)


def peak_resident() -> int:
    """The most bytes of RAM that this process ever held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
