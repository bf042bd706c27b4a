from itertools import combinations

import numpy as np
import pytest

from pipelines.registry import PRESETS
from pipelines.training.prompts import MEANINGS, random_prompt
from pipelines.training.scenes import Scenery, procedural
from pipelines.training.styles import STYLES


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return Scenery().clip(np.random.default_rng(3), 3, 128, 96)


def test_clips_are_reproducible_and_differ_by_seed() -> None:
    scenery = Scenery()
    a, b, c = (scenery.clip(np.random.default_rng(seed), 5, 64, 48) for seed in (1, 1, 2))
    assert a.shape == (5, 48, 64, 3)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_drawn_scenes_are_pictures() -> None:
    picture = procedural(np.random.default_rng(0))
    assert picture.dtype == np.uint8
    assert picture.std() > 10


@pytest.mark.parametrize("name", STYLES)
def test_a_style_keeps_size_and_is_deterministic(name: str, scene: np.ndarray) -> None:
    style = STYLES[name]
    before = scene.copy()
    first = style(scene[0])
    assert first.shape == scene[0].shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, style(scene[0]))
    assert np.array_equal(before, scene)


def test_styles_differ_from_each_other(scene: np.ndarray) -> None:
    pictures = {name: style(scene[0]).astype(float) for name, style in STYLES.items()}
    for (a, first), (b, second) in combinations(pictures.items(), 2):
        assert np.abs(first - second).mean() > 5, (a, b)


def test_every_style_has_prompts_and_the_page_offers_them() -> None:
    assert set(MEANINGS) == set(STYLES)
    rng = np.random.default_rng(0)
    assert all(isinstance(random_prompt(rng, style), str) for style in STYLES)
    assert len(PRESETS["tiny"].styles) == len(STYLES) - 1
