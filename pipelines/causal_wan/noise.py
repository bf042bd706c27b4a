"""Motion-aware noise: fast motion lowers the noise, still scenes raise it (StreamDiffusionV2, arXiv 2511.07399).

Pure arithmetic: d_t is the root mean square change between neighbouring frames, d^ = clip(max over the last frames of
d / sigma, 0, 1), and s_t = smoothing * (high - (high - low) * d^) + (1 - smoothing) * s_(t-1).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class NoiseGeometry:
    """Constants of the controller; the defaults are those of the paper's code."""

    range: float = 0.1
    """How far the noise may go below what was asked for."""
    sigma: float = 0.2
    """RMS change between frames (of pictures in -1..1) that counts as the fastest motion."""
    smoothing: float = 0.9
    """Weight of the new value."""
    window: int = 10
    """How many chunks' motion is remembered."""


class NoiseController:
    """The noise level of one stream."""

    def __init__(self, geometry: NoiseGeometry) -> None:
        self._geometry = geometry
        self._motion: deque[float] = deque(maxlen=geometry.window)
        self._last: NDArray[np.float32] | None = None
        self._level: float | None = None

    def next(self, frames: NDArray[np.uint8], asked: float) -> float:
        """The level for a chunk (T, H, W, 3), at most `asked` (0..1) and never below 0."""
        g = self._geometry
        self._motion.append(self._measure(frames))
        motion = min(max(self._motion) / g.sigma, 1.0)
        target = max(asked - g.range * motion, 0.0)
        self._level = target if self._level is None else g.smoothing * target + (1 - g.smoothing) * self._level
        return self._level

    def _measure(self, frames: NDArray[np.uint8]) -> float:
        """Largest RMS change between neighbouring frames, the last chunk's last frame included."""
        small = frames[:, ::4, ::4].astype(np.float32) / 127.5 - 1.0
        if self._last is not None and self._last.shape == small.shape[1:]:
            small = np.concatenate([self._last[None], small])
        self._last = small[-1]
        if len(small) < 2:
            return 0.0
        return float(np.sqrt(np.square(np.diff(small, axis=0)).mean(axis=(1, 2, 3))).max())
