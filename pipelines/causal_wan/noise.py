"""Motion-aware noise: fast motion lowers the noise, still scenes raise it (StreamDiffusionV2, arXiv 2511.07399).

Pure arithmetic: d_t is the root mean square change between neighbouring frames, d^ = clip(max over the last chunks of
d / sigma, 0, 1), and s_t = smoothing * (high - (high - low) * d^) + (1 - smoothing) * s_(t-1). A stream's first chunk
has no s_(t-1) and gets its target. Frames are pictures, as in the paper's code, or latents; sigma is in the same units.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class NoiseGeometry:
    """Constants of the controller. Range, sigma and smoothing are by default those of the paper's code, which looks at
    pixels, at all of them (stride 1), and remembers one chunk (window 1)."""

    range: float = 0.1
    """How far the noise may go below what was asked for."""
    sigma: float = 0.2
    """RMS change between frames (of pictures in -1..1, or of latents) that counts as the fastest motion."""
    smoothing: float = 0.9
    """Weight of the new value."""
    window: int = 10
    """How many chunks' motion is remembered."""
    space: Literal["pixels", "latents"] = "pixels"
    stride: int = 4
    """In pixels: every how many rows and columns are looked at."""

    def __post_init__(self) -> None:
        if self.space not in ("pixels", "latents"):
            raise ValueError(f"space is pixels or latents, not {self.space!r}")
        if self.window < 1 or self.stride < 1:
            raise ValueError(f"window and stride are at least 1, not {self.window} and {self.stride}")
        if self.sigma <= 0 or not 0 < self.smoothing <= 1:
            raise ValueError(f"sigma is above 0, smoothing in 0..1, not {self.sigma} and {self.smoothing}")


class NoiseController:
    """The noise level of one stream."""

    def __init__(self, geometry: NoiseGeometry) -> None:
        self._geometry = geometry
        self._motion: deque[float] = deque(maxlen=geometry.window)
        self._last: NDArray[np.float32] | None = None
        self._level: float | None = None

    def next(self, frames: NDArray[Any], asked: float) -> float:
        """The level for a chunk, at most `asked` (0..1) and never below 0.

        frames: pictures (T, H, W, 3), uint8, or, if the space is latents, latent frames (T, C, h, w), float.
        """
        g = self._geometry
        self._motion.append(self._measure(self._seen(frames)))
        motion = min(max(self._motion) / g.sigma, 1.0)
        target = max(asked - g.range * motion, 0.0)
        # written so that a still scene's level is exactly what was asked for
        self._level = target if self._level is None else self._level + g.smoothing * (target - self._level)
        return self._level

    def _seen(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        g = self._geometry
        if g.space == "latents":
            return frames.astype(np.float32)
        return frames[:, :: g.stride, :: g.stride].astype(np.float32) / np.float32(127.5) - np.float32(1.0)

    def _measure(self, frames: NDArray[np.float32]) -> float:
        """Largest RMS change between neighbouring frames, the last chunk's last frame included."""
        if self._last is not None and self._last.shape == frames.shape[1:]:
            frames = np.concatenate([self._last[None], frames])
        self._last = frames[-1]
        if len(frames) < 2:
            return 0.0
        return float(np.sqrt(np.square(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))).max())
