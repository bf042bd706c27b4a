"""Times of several contenders, taken in turn, so that what else the machine does meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Patience:
    """How often to measure: at least `least` rounds, at most `most`, and no new one after `seconds`."""

    least: int = 3
    most: int = 15
    seconds: float = 6.0


def settle(device: torch.device) -> None:
    """Waits until `device` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def elapsed(run: Callable[[], object], device: torch.device) -> float:
    """Wall time (ms) of one call, until the device is done."""
    settle(device)
    start = time.perf_counter()
    run()
    settle(device)
    return 1e3 * (time.perf_counter() - start)


def interleaved(
    contenders: Mapping[str, Callable[[], object]], device: torch.device, patience: Patience
) -> dict[str, float]:
    """Median time (ms) of each contender, which must be warm. Every round runs each once, every other in reverse."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    until = time.perf_counter() + patience.seconds
    for done in range(patience.most):
        if done >= patience.least and time.perf_counter() > until:
            break
        for name in order:
            times[name].append(elapsed(contenders[name], device))
        order.reverse()
    return {name: statistics.median(taken) for name, taken in times.items()}


class Laps:
    """Times of the stages of one run after another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._since = 0.0
        self._times: dict[str, list[float]] = {}

    def start(self) -> None:
        settle(self._device)
        self._since = time.perf_counter()

    def __call__(self, stage: str) -> None:
        """Notes that `stage` ends here."""
        settle(self._device)
        now = time.perf_counter()
        self._times.setdefault(stage, []).append(1e3 * (now - self._since))
        self._since = now

    def medians(self) -> dict[str, float]:
        """Of each stage (ms)."""
        return {stage: statistics.median(taken) for stage, taken in self._times.items()}
