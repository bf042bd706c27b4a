from __future__ import annotations

from dataclasses import replace

import pytest

from streamgen.scheduler.cost import MAX_SHAPES, CostModel, Shape

SHAPE = Shape(1, 4, 2, 320, 192)


def test_nothing_is_known_at_the_start() -> None:
    assert CostModel().estimate(SHAPE) == 0.0


def test_it_follows_what_was_measured() -> None:
    model = CostModel().observed(SHAPE, 0.2)
    assert model.estimate(SHAPE) == 0.2
    for _ in range(50):
        model = model.observed(SHAPE, 0.1)
    assert model.estimate(SHAPE) == pytest.approx(0.1, rel=0.01)


def test_one_outlier_does_not_carry_it_away() -> None:
    model = CostModel().observed(SHAPE, 0.1).observed(SHAPE, 0.5)
    assert model.estimate(SHAPE) == pytest.approx(0.2)


def test_an_unseen_shape_is_estimated_from_the_nearest_seen() -> None:
    model = CostModel().observed(SHAPE, 0.3)
    assert model.estimate(replace(SHAPE, chunks=2)) == pytest.approx(0.6)
    assert model.estimate(replace(SHAPE, steps=1)) == pytest.approx(0.2)
    model = model.observed(replace(SHAPE, chunks=2), 0.4)
    assert model.estimate(replace(SHAPE, chunks=3)) == pytest.approx(0.6)


def test_observing_gives_a_new_value() -> None:
    before = CostModel()
    before.observed(SHAPE, 1.0)
    assert before.estimate(SHAPE) == 0.0


def test_it_forgets_the_shapes_seen_longest_ago() -> None:
    model = CostModel()
    for number in range(3 * MAX_SHAPES):
        model = model.observed(replace(SHAPE, width=64 + 16 * number), 0.1).observed(SHAPE, 0.2)
    assert len(model.seconds) == MAX_SHAPES
    assert model.seconds[SHAPE] == pytest.approx(0.2)
