"""How good pictures are: restyled video against its source and its target. Frames are (T, H, W, 3) uint8."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

Frames = NDArray[np.uint8]
Flow = NDArray[np.float32]
"""(H, W, 2) in pixels: where each pixel of a frame was in the frame before."""

CONSISTENT = 1.0
"""Pixels by which flow forth and back may disagree where a pixel counts as seen in both frames."""


def psnr(frames: Frames, target: Frames) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255.0**2 / max(_mse(frames, target), 1e-9)))


def gradient_energy(frames: Frames) -> float:
    """Mean squared length of the brightness gradient: what blurring takes away."""
    grey = _grey(frames)
    across, down = np.diff(grey, axis=2)[:, :-1], np.diff(grey, axis=1)[:, :, :-1]
    return float((across**2 + down**2).mean())


def ssim(frames: Frames, target: Frames) -> float:
    """Structural similarity (Wang et al. 2004), mean over frames and channels; 1 where they are the same."""
    compare: Callable[..., float] = structural_similarity
    return float(np.mean([compare(a, b, channel_axis=-1) for a, b in zip(frames, target, strict=True)]))


def distance(frames: Frames, other: Frames) -> float:
    """Root mean square difference, in levels of 0..255."""
    return float(np.sqrt(_mse(frames, other)))


def flows(source: Frames) -> list[tuple[Flow, NDArray[np.bool_]]]:
    """Optical flow (DIS, Kroeger et al. 2016) from each frame to the one before, and where it can be trusted."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in source]
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found = []
    for before, now in pairwise(grey):
        back = np.asarray(estimator.calc(now, before, np.zeros((*now.shape, 2), np.float32)), np.float32)
        forth = np.asarray(estimator.calc(before, now, np.zeros((*now.shape, 2), np.float32)), np.float32)
        there_and_back = np.linalg.norm(back + _warped(forth, back), axis=2)
        found.append((back, there_and_back < CONSISTENT))
    return found


def warp_error(frames: Frames, motion: list[tuple[Flow, NDArray[np.bool_]]]) -> float:
    """Root mean square difference of each frame to the one before it, moved along the source's flow (Lai et al. 2018).

    motion: from `flows` of the source. Only where the flow can be trusted; in levels of 0..255.
    """
    squares, count = 0.0, 0
    for before, now, (flow, seen) in zip(frames, frames[1:], motion, strict=False):
        change = now.astype(np.float32) - _warped(before.astype(np.float32), flow)
        squares += float(np.square(change[seen]).sum())
        count += 3 * int(seen.sum())
    return float(np.sqrt(squares / max(count, 1)))


def colour_and_contrast(frames: Frames) -> tuple[float, float, float, float]:
    """Mean red, green and blue, and the deviation of brightness; in levels of 0..255."""
    red, green, blue = (float(frames[..., c].mean()) for c in range(3))
    return red, green, blue, float(_grey(frames).std(axis=(1, 2)).mean())


def _warped(picture: NDArray[np.float32], flow: Flow) -> NDArray[np.float32]:
    """A picture, or a flow, taken from where `flow` points to."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = cv2.remap(picture, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


def _grey(frames: Frames) -> NDArray[np.float32]:
    return np.asarray(frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32), np.float32)


def _mse(frames: Frames, other: Frames) -> float:
    return float(np.square(frames.astype(np.float32) - other.astype(np.float32)).mean())
