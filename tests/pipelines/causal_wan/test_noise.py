from typing import Any

import numpy as np
import pytest

from pipelines.causal_wan.noise import NoiseController, NoiseGeometry


def still(value: int = 100) -> np.ndarray:
    return np.full((4, 32, 32, 3), value, np.uint8)


def flashing() -> np.ndarray:
    frames = still(0)
    frames[1::2] = 255
    return frames


def test_a_still_scene_gets_what_was_asked_for() -> None:
    controller = NoiseController(NoiseGeometry())
    assert [controller.next(still(), 0.6) for _ in range(3)] == pytest.approx([0.6] * 3)


def test_fast_motion_lowers_the_noise_by_the_whole_range_at_most() -> None:
    controller = NoiseController(NoiseGeometry(range=0.1, smoothing=0.9))
    controller.next(still(), 0.6)
    first = controller.next(flashing(), 0.6)
    assert first == pytest.approx(0.9 * 0.5 + 0.1 * 0.6)
    assert controller.next(flashing(), 0.6) == pytest.approx(0.9 * 0.5 + 0.1 * first)


def test_motion_is_measured_as_rms_change_of_pictures_in_minus_one_to_one() -> None:
    controller = NoiseController(NoiseGeometry(range=0.1, sigma=0.2, smoothing=1.0))
    frames = still(100)
    frames[2:] = 110
    assert controller.next(frames, 0.6) == pytest.approx(0.6 - 0.1 * (10 / 127.5) / 0.2, abs=1e-6)


def test_motion_between_chunks_counts() -> None:
    controller = NoiseController(NoiseGeometry(smoothing=1.0))
    controller.next(still(0), 0.6)
    assert controller.next(still(255), 0.6) == pytest.approx(0.5)


def test_motion_is_remembered_for_the_window_and_then_forgotten() -> None:
    controller = NoiseController(NoiseGeometry(window=3, smoothing=1.0))
    controller.next(flashing(), 0.6)
    levels = [controller.next(still(255), 0.6) for _ in range(4)]
    assert levels == pytest.approx([0.5, 0.5, 0.6, 0.6])


def test_noise_never_goes_below_zero() -> None:
    assert NoiseController(NoiseGeometry()).next(flashing(), 0.02) == 0.0


def test_a_still_scene_gets_exactly_what_was_asked_for_however_long() -> None:
    """Not 0.7999999: the timestep is cut to a whole number."""
    controller = NoiseController(NoiseGeometry())
    assert {controller.next(still(), 0.8) for _ in range(200)} == {0.8}


def test_latents_may_be_what_is_measured() -> None:
    controller = NoiseController(NoiseGeometry(space="latents", sigma=2.0, smoothing=1.0))
    latents = np.zeros((1, 4, 3, 3), np.float32)
    assert controller.next(latents, 0.6) == 0.6
    assert controller.next(latents + 1.0, 0.6) == pytest.approx(0.6 - 0.1 * 1.0 / 2.0)
    assert controller.next(latents + 9.0, 0.6) == pytest.approx(0.5)


def test_the_stride_says_which_pixels_are_looked_at() -> None:
    frames = still(0)
    frames[1, 1::4] = 255  # rows that a stride of 4 passes over
    levels = [NoiseController(NoiseGeometry(stride=stride)).next(frames, 0.6) for stride in (4, 1)]
    assert levels[0] == 0.6
    assert levels[1] < 0.6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"space": "frames"}, "space is"),
        ({"window": 0}, "window"),
        ({"sigma": 0.0}, "sigma"),
        ({"smoothing": 1.5}, "0..1"),
    ],
)
def test_constants_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseGeometry(**wrong)
