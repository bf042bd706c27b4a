"""The styles the tiny preset learns: each a function computed from the source frame, (H, W, 3) uint8 RGB to the same.

They are local (no style looks further than a few dozen pixels) and deterministic, so that a small causal model can
learn them and a still scene stays still.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Numbers = NDArray[np.integer | np.floating]
"""What OpenCV's functions are declared to return."""


def photo(frame: Pixels) -> Pixels:
    """The source itself."""
    return frame


def pencil(frame: Pixels) -> Pixels:
    """Graphite on paper: the picture divided by its blurred self, darkened in the shadows."""
    grey = cv2.GaussianBlur(_grey(frame), (0, 0), 0.8)
    dodge = np.minimum(grey / (cv2.GaussianBlur(grey, (0, 0), 4.0) + 0.05), 1.0)
    shade = 0.72 + 0.28 * np.clip(cv2.GaussianBlur(grey, (0, 0), 1.5) * 1.6, 0, 1)
    return _tone(dodge**1.8 * shade, (28, 28, 34), (246, 244, 238))


def ink(frame: Pixels) -> Pixels:
    """Black ink: extended difference of Gaussians (Winnemoeller et al. 2012), soft threshold."""
    grey = _grey(frame)
    fine, coarse = cv2.GaussianBlur(grey, (0, 0), 1.3), cv2.GaussianBlur(grey, (0, 0), 2.4)
    response = fine + 12.0 * (fine - coarse)
    value = np.where(response > 0.38, 1.0, 1.0 + np.tanh(7.0 * (response - 0.38)))
    return _tone(value.astype(np.float32), (12, 10, 16), (252, 250, 242))


def watercolour(frame: Pixels) -> Pixels:
    """Light washes with darker borders on white paper."""
    wash = _float(cv2.bilateralFilter(cv2.medianBlur(frame, 5), 9, 60, 5))
    grey = wash.mean(axis=2, keepdims=True)
    vivid = grey + 1.5 * (wash - grey)
    light = 1.0 - (1.0 - vivid) * 0.62
    border = np.clip(_edges(wash.mean(axis=2)) * 2.2, 0, 0.45)[..., None]
    return _bytes(light * (1.0 - border))


def oil(frame: Pixels) -> Pixels:
    """Thick strokes: Kuwahara filter, saturated, with light catching the ridges of the paint."""
    paint = kuwahara(_float(frame), 4)
    grey = paint.mean(axis=2, keepdims=True)
    vivid = grey + 1.6 * (paint - grey)
    flat = cv2.GaussianBlur(paint.mean(axis=2), (0, 0), 0.8)
    relief = np.clip(3.0 * (flat - np.roll(flat, (1, 1), (0, 1))), -0.12, 0.12)[..., None]
    return _bytes(0.06 + 0.98 * vivid + relief)


def cartoon(frame: Pixels) -> Pixels:
    """Flat bright colours in a few levels, black outlines."""
    smooth = _float(cv2.bilateralFilter(frame, 9, 70, 6))
    grey = smooth.mean(axis=2, keepdims=True)
    vivid = np.clip(grey + 1.9 * (smooth - grey), 0, 1) ** 0.85
    flat = _levels(vivid, 5)
    outline = np.clip(_edges(cv2.GaussianBlur(_grey(frame), (0, 0), 1.2)) * 7.0 - 0.35, 0, 1)[..., None]
    return _bytes(flat * (1.0 - outline))


def pixel(frame: Pixels) -> Pixels:
    """Blocks of 8x8 pixels in a small palette of strong colours."""
    height, width = frame.shape[:2]
    blocks = _float(cv2.resize(frame, (-(-width // 8), -(-height // 8)), interpolation=cv2.INTER_AREA))
    grey = blocks.mean(axis=2, keepdims=True)
    few = _levels(np.clip(0.5 + 1.25 * (grey + 1.7 * (blocks - grey) - 0.5), 0, 1), 5, softness=0.0)
    large = cv2.resize(few, (blocks.shape[1] * 8, blocks.shape[0] * 8), interpolation=cv2.INTER_NEAREST)
    return _bytes(large[:height, :width])


def neon(frame: Pixels) -> Pixels:
    """Glowing lines over night: edges in their own hue, bloom, a violet dark."""
    smooth = cv2.GaussianBlur(_float(frame), (0, 0), 1.0)
    edge = np.clip(_edges(smooth.mean(axis=2)) * 5.0, 0, 1)
    hue = cv2.cvtColor(cv2.GaussianBlur(frame, (0, 0), 2.0), cv2.COLOR_RGB2HSV)[..., 0].astype(np.float32) * 2
    x = np.radians(hue)
    tube = 0.55 + 0.45 * np.stack([np.cos(x - 5.4), np.cos(x - 3.4), np.cos(x - 4.4)], axis=2)
    lines = tube * edge[..., None]
    bloom = cv2.GaussianBlur(lines, (0, 0), 4.0)
    night = 0.22 * smooth * np.array([0.7, 0.35, 1.1], np.float32) + np.array([0.03, 0.0, 0.07], np.float32)
    return _bytes(night + 1.1 * lines + 0.9 * bloom)


def blueprint(frame: Pixels) -> Pixels:
    """White lines on blue paper."""
    grey = _grey(frame)
    line = np.clip(_edges(cv2.GaussianBlur(grey, (0, 0), 0.9)) * 4.5, 0, 1)
    return _tone(0.16 * cv2.GaussianBlur(grey, (0, 0), 2.0) + line, (16, 48, 132), (236, 244, 255))


def thermal(frame: Pixels) -> Pixels:
    """False colours of a heat camera, from dark blue over red to white."""
    value = cv2.GaussianBlur(_grey(frame), (0, 0), 1.2)
    stops = np.linspace(0, 1, 7)
    colours = np.array(
        [(6, 4, 40), (50, 8, 120), (150, 20, 130), (226, 60, 50), (250, 140, 20), (255, 220, 70), (255, 255, 240)]
    )
    channels = [np.interp(value, stops, colours[:, c] / 255.0) for c in range(3)]
    return _bytes(np.stack(channels, axis=2).astype(np.float32))


def vintage(frame: Pixels) -> Pixels:
    """A faded sepia print."""
    grey = cv2.GaussianBlur(_grey(frame), (0, 0), 0.7)
    return _tone(0.1 + 0.85 * (0.5 + 1.1 * (grey - 0.45)), (44, 24, 14), (255, 232, 188))


STYLES: dict[str, Callable[[Pixels], Pixels]] = {
    style.__name__: style
    for style in (photo, pencil, ink, watercolour, oil, cartoon, pixel, neon, blueprint, thermal, vintage)
}


def kuwahara(picture: Floats, radius: int) -> Floats:
    """Each pixel takes the mean of whichever of its four quadrants varies least (Kuwahara 1976), softly. (H, W, 3)."""
    size = (radius + 1, radius + 1)
    grey = picture.mean(axis=2)
    means, weights = [], []
    for dx in (0, radius):
        for dy in (0, radius):
            mean = cv2.boxFilter(picture, -1, size, anchor=(dx, dy))
            level = cv2.boxFilter(grey, -1, size, anchor=(dx, dy))
            variance = np.maximum(cv2.boxFilter(grey * grey, -1, size, anchor=(dx, dy)) - level * level, 0)
            means.append(mean)
            weights.append((variance + 1e-4) ** -4)
    total = sum(weights[1:], weights[0])
    mixed = sum((m * (w / total)[..., None] for m, w in zip(means[1:], weights[1:], strict=True)),
                means[0] * (weights[0] / total)[..., None])  # fmt: skip
    return np.asarray(mixed, np.float32)


def _float(frame: Numbers) -> Floats:
    return np.asarray(frame, np.float32) / 255.0


def _bytes(picture: Numbers) -> Pixels:
    return np.asarray(np.clip(picture * 255.0 + 0.5, 0, 255), np.uint8)


def _grey(frame: Pixels) -> Floats:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.float32) / 255.0


def _edges(grey: Numbers) -> Floats:
    """Gradient length per pixel."""
    return np.asarray(cv2.magnitude(cv2.Sobel(grey, -1, 1, 0, scale=0.25), cv2.Sobel(grey, -1, 0, 1, scale=0.25)))


def _levels(picture: Floats, count: int, softness: float = 0.15) -> Floats:
    """Rounds to `count` levels; the steps between them are `softness` of a level wide."""
    scaled = picture * (count - 1)
    base = np.floor(scaled)
    fraction = scaled - base
    step = np.clip((fraction - 0.5) / max(softness, 1e-3) + 0.5, 0, 1)
    return np.asarray((base + step) / (count - 1), np.float32)


def _tone(value: Floats, dark: tuple[int, int, int], light: tuple[int, int, int]) -> Pixels:
    """Grey `value` in 0..1 (H, W) as a ramp between two colours."""
    mix = np.clip(value, 0, 1)[..., None]
    return _bytes((np.array(dark, np.float32) * (1 - mix) + np.array(light, np.float32) * mix) / 255.0)
