from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipelines.training.metrics import colour_and_contrast, distance, flows, gradient_energy, psnr, ssim, warp_error


@pytest.fixture(scope="module")
def pan() -> np.ndarray:
    """A camera that moves two pixels to the right a frame over a smooth random picture."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (20, 40, 3), dtype=np.uint8), (320, 160), interpolation=cv2.INTER_CUBIC)
    return np.stack([picture[:128, 2 * i : 2 * i + 192] for i in range(6)])


def blurred(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in frames])


def test_the_same_is_as_good_as_can_be(pan: np.ndarray) -> None:
    assert psnr(pan, pan) > 100
    assert ssim(pan, pan) == pytest.approx(1.0)
    assert distance(pan, pan) == 0


def test_a_constant_error_has_the_psnr_that_its_definition_says() -> None:
    grey = np.full((2, 32, 32, 3), 100, np.uint8)
    assert psnr(grey + np.uint8(10), grey) == pytest.approx(20 * np.log10(25.5))
    assert distance(grey + np.uint8(10), grey) == pytest.approx(10)


def test_blur_takes_detail(pan: np.ndarray) -> None:
    assert gradient_energy(blurred(pan)) < 0.7 * gradient_energy(pan)
    assert ssim(blurred(pan), pan) < 0.98
    assert psnr(blurred(pan), pan) < 40


def test_what_moves_with_the_source_does_not_flicker(pan: np.ndarray) -> None:
    motion = flows(pan)
    assert np.mean([seen.mean() for _, seen in motion]) > 0.7
    steady = warp_error(255 - pan, motion)
    flicker = pan.astype(int) + np.array([0, 12, 0, 12, 0, 12])[:, None, None, None]
    assert warp_error(np.clip(flicker, 0, 255).astype(np.uint8), motion) > steady + 8
    assert steady < 3


def test_what_stands_still_over_a_moving_source_is_an_error(pan: np.ndarray) -> None:
    motion = flows(pan)
    assert warp_error(np.repeat(pan[:1], len(pan), axis=0), motion) > 2 * warp_error(pan, motion)


def test_colour_and_contrast() -> None:
    halves = np.zeros((1, 4, 4, 3), np.uint8)
    halves[:, :2] = (200, 100, 50)
    red, green, blue, contrast = colour_and_contrast(halves)
    assert (red, green, blue) == (100, 50, 25)
    assert contrast == pytest.approx(0.5 * (0.299 * 200 + 0.587 * 100 + 0.114 * 50), rel=1e-4)
