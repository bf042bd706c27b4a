from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgen.engine.work import StageTimes
from streamgen.scheduler.cost import MAX_SHAPES, STAGES, UNKNOWN, CostModel, Line, Shape

SHAPE = Shape(4, 320, 192)


def times(
    encode: float = 0.02, denoise: float = 0.1, decode: float = 0.04, *, chunks: int = 1, steps: int = 2
) -> StageTimes:
    """What a batch took, all chunks of which had `steps` steps."""
    return StageTimes(0.001, encode, denoise, decode, chunks, steps, steps * chunks, chunks)


def true_times(chunks: int, steps: int = 2, factor: float = 1.0) -> StageTimes:
    """Of a device whose denoiser takes 40 ms a call and 10 ms a row, its encoder 5 + 10, its decoder 0 + 20."""
    calls, rows = steps, steps * chunks
    encode, denoise, decode = 0.005 + 0.01 * chunks, 0.04 * calls + 0.01 * rows, 0.02 * chunks
    return StageTimes(0.001, *(factor * seconds for seconds in (encode, denoise, decode)), chunks, calls, rows, chunks)


def test_nothing_is_known_at_the_start() -> None:
    assert UNKNOWN.rates(SHAPE).sequential(2) == 0.0
    assert UNKNOWN.costs(SHAPE, 1, 2, 2).total == 0.0


def test_it_follows_what_was_measured() -> None:
    model = UNKNOWN.observed(SHAPE, times())
    assert model.costs(SHAPE, 1, 2, 2) == pytest.approx((0.001, 0.02, 0.1, 0.04))
    for _ in range(80):
        model = model.observed(SHAPE, times(denoise=0.05))
    assert model.costs(SHAPE, 1, 2, 2).denoise == pytest.approx(0.05, rel=0.01)
    assert model.rates(SHAPE).sequential(2) == pytest.approx(0.111, rel=0.01)


def test_fixed_part_and_rows_are_told_apart_by_batches_of_several_sizes() -> None:
    model = UNKNOWN.seeded([(SHAPE, true_times(1)), (SHAPE, true_times(2))])
    assert model.line("denoise", SHAPE).fixed == pytest.approx(0.04, rel=0.02)
    assert model.line("denoise", SHAPE).row == pytest.approx(0.01, rel=0.05)
    assert model.costs(SHAPE, 4, 3, 12).denoise == pytest.approx(3 * 0.04 + 12 * 0.01, rel=0.02)
    assert model.costs(SHAPE, 4, 3, 12).encode == pytest.approx(0.045, rel=0.02)
    assert model.costs(SHAPE, 4, 3, 12).decode == pytest.approx(0.08, rel=0.02)


def test_what_batches_of_one_size_do_not_tell_apart_stays_as_it_was_known() -> None:
    model = UNKNOWN.seeded([(SHAPE, true_times(1)), (SHAPE, true_times(2))])
    for _ in range(500):
        model = model.observed(SHAPE, true_times(1))
    assert model.costs(SHAPE, 4, 2, 8).denoise == pytest.approx(2 * 0.04 + 8 * 0.01, rel=0.02)


def test_it_finds_the_truth_under_noise_and_hiccups_and_states_its_error() -> None:
    rng = random.Random(1)
    model = UNKNOWN.seeded([(SHAPE, true_times(1)), (SHAPE, true_times(2))])
    for _ in range(400):
        factor = rng.lognormvariate(0, 0.1) * (8 if rng.random() < 0.02 else 1)
        model = model.observed(SHAPE, true_times(rng.randint(1, 4), factor=factor))
    for chunks in range(1, 5):
        assert model.costs(SHAPE, chunks, 2, 2 * chunks).total == pytest.approx(
            sum(true_times(chunks).stages.values()), rel=0.15
        )
    assert 0.04 < model.rates(SHAPE).error < 0.25  # 10 % of noise is a mean error of 8 %, and there are hiccups


def test_one_outlier_does_not_carry_it_away() -> None:
    model = UNKNOWN
    for _ in range(20):
        model = model.observed(SHAPE, times())
    after = model.observed(SHAPE, times(denoise=5.0))
    assert after.costs(SHAPE, 1, 2, 2).denoise < 0.115


def test_a_lasting_change_is_followed() -> None:
    model = UNKNOWN
    for _ in range(50):
        model = model.observed(SHAPE, times())
    for _ in range(40):
        model = model.observed(SHAPE, times(denoise=0.3))
    assert model.costs(SHAPE, 1, 2, 2).denoise == pytest.approx(0.3, rel=0.1)


def test_an_unseen_shape_is_estimated_from_the_nearest_seen_with_less_trust() -> None:
    model = UNKNOWN.observed(SHAPE, times())
    half = Shape(4, 160, 192)
    assert model.costs(half, 1, 2, 2).total == pytest.approx(model.costs(SHAPE, 1, 2, 2).total / 2)  # rows alone
    assert model.rates(half).error > model.rates(SHAPE).error
    first = Shape(1, 320, 192)
    assert model.costs(first, 1, 2, 2).denoise == model.costs(SHAPE, 1, 2, 2).denoise  # one latent frame all the same
    assert model.costs(first, 1, 2, 2).encode == pytest.approx(0.02 / 4)


def test_a_shape_seen_first_begins_in_the_proportions_of_the_nearest() -> None:
    model = UNKNOWN.seeded([(SHAPE, true_times(1)), (SHAPE, true_times(2))])
    small = Shape(4, 160, 96)
    model = model.observed(small, true_times(1, factor=0.5))
    line = model.line("denoise", small)
    assert line.seconds(2, 2) == pytest.approx(0.05)
    assert line.fixed / line.row == pytest.approx(0.04 / (0.01 / 4), rel=0.1)


def test_another_vae_has_costs_of_its_own_but_the_same_denoiser() -> None:
    light = Shape(4, 320, 192, "light")
    model = UNKNOWN.observed(SHAPE, times()).observed(light, times(decode=0.004))
    assert model.costs(SHAPE, 1, 2, 2).decode == pytest.approx(0.04)
    assert model.costs(light, 1, 2, 2).decode == pytest.approx(0.004)
    assert model.line("denoise", light) == model.line("denoise", SHAPE)


def test_observing_gives_a_new_value() -> None:
    before = CostModel()
    before.observed(SHAPE, times())
    assert before.costs(SHAPE, 1, 2, 2).total == 0.0


def test_it_forgets_the_shapes_seen_longest_ago() -> None:
    model = UNKNOWN
    for number in range(3 * MAX_SHAPES):
        model = model.observed(Shape(4, 64 + 16 * number, 64), times()).observed(SHAPE, times())
    assert len(model.lines) <= MAX_SHAPES * len(STAGES)
    assert ("encode", SHAPE) in model.lines


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 8), st.floats(0, 10, allow_nan=False)), min_size=1, max_size=60
    )
)
def test_a_line_is_never_negative_whatever_it_sees(seen: list[tuple[int, int, float]]) -> None:
    line = Line(0.01, 0.01)
    for calls, rows, seconds in seen:
        line = line.observed(calls, max(calls, rows), seconds)
        assert line.fixed >= 0
        assert line.row >= 0
        assert line.error >= 0
