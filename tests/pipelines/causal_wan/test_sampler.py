from typing import Any

import pytest
import torch

from pipelines.causal_wan.geometry import SamplerGeometry
from pipelines.causal_wan.sampler import Level, Sampler, add_noise, clean_from, draw_noise, sigma_at

CPU = torch.device("cpu")


def test_levels_fall_in_equal_parts() -> None:
    assert [sigma_at(i, 4, 0.8) for i in range(4)] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert sigma_at(0, 1, 0.3) == 0.3


def test_the_true_flow_leads_back_to_the_clean_latent() -> None:
    clean, noise = torch.randn(2, 8, 1, 4, 4), torch.randn(2, 8, 1, 4, 4)
    sigma = torch.tensor([0.3, 0.9])
    noised = add_noise(clean, noise, sigma)
    torch.testing.assert_close(clean_from(noise - clean, noised, None, sigma, "flow"), clean, atol=1e-5, rtol=1e-4)
    assert clean_from(clean, noised, None, sigma, "x0") is clean
    torch.testing.assert_close(clean_from(clean - 1, noised, torch.ones(1), sigma, "residual"), clean)
    with pytest.raises(ValueError, match="condition"):
        clean_from(clean, noised, None, sigma, "residual")


def test_the_ends_are_the_clean_latent_and_pure_noise() -> None:
    clean, noise = torch.randn(2, 8, 1, 4, 4), torch.randn(2, 8, 1, 4, 4)
    ends = add_noise(clean, noise, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.stack([clean[0], noise[1]]))


def test_noise_depends_on_seed_and_step_alone() -> None:
    shape = (1, 8, 1, 4, 4)
    a = draw_noise(shape, 5, 1, CPU, torch.float32)
    torch.manual_seed(99)
    assert torch.equal(a, draw_noise(shape, 5, 1, CPU, torch.float32))
    assert not torch.equal(a, draw_noise(shape, 5, 2, CPU, torch.float32))
    assert not torch.equal(a, draw_noise(shape, 6, 1, CPU, torch.float32))
    assert not torch.equal(a, draw_noise(shape, 5, 1, CPU, torch.float32, chunk=1))


def test_proportional_levels_are_one_level_each() -> None:
    sampler = Sampler(SamplerGeometry())
    assert sampler.most_steps is None
    assert sampler.level(1, 4, 0.8) == Level(*[pytest.approx(0.6)] * 3)


def test_a_list_lags_behind_the_first_level_and_goes_on_by_itself() -> None:
    sampler = Sampler(SamplerGeometry("list", (700, 500, 400, 200)))
    assert sampler.most_steps == 4
    first = sampler.level(0, 4, 0.75)
    assert (first.noise, first.time) == (0.75, 0.65)
    assert first.sigma == pytest.approx(0.65, abs=1e-3)
    assert [sampler.level(step, 4, 0.75).time for step in (1, 2, 3)] == [0.5, 0.4, 0.2]
    for step in (1, 2, 3):
        level = sampler.level(step, 4, 0.75)
        assert level.noise == level.sigma == pytest.approx(level.time, abs=2e-3)


@pytest.mark.parametrize("start", [0.0, 0.05, 0.1, 0.3, 0.5, 0.6, 0.61, 0.8, 1.0])
def test_levels_never_rise(start: float) -> None:
    """Also where the user asks for less noise than the list's second step has."""
    sampler = Sampler(SamplerGeometry("list", (700, 500, 400, 200)))
    times = [sampler.level(step, 4, start).time for step in range(4)]
    assert times == sorted(times, reverse=True)
    assert times[0] <= max(start - 0.1, 0.0) + 1e-9


def test_whole_timesteps_are_not_lost_to_rounding() -> None:
    sampler = Sampler(SamplerGeometry("list", (700,)))
    assert [sampler.level(0, 1, percent / 100).time for percent in range(10, 101)] == [
        (10 * percent - 100) / 1000 for percent in range(10, 101)
    ]


def test_without_shift_the_table_is_even_and_with_it_lies_higher() -> None:
    assert Sampler(SamplerGeometry(shift=1.0)).sigma(333) == pytest.approx(0.333)
    shifted = Sampler(SamplerGeometry(shift=8.0))
    assert shifted.sigma(1000) == 1.0
    assert shifted.sigma(0) == pytest.approx(8 * 0.001 / 1.007)
    levels = [shifted.sigma(timestep) for timestep in range(1001)]
    assert levels == sorted(levels)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": "cosine"}, "proportional or list"),
        ({"schedule": "list"}, "falling"),
        ({"schedule": "list", "steps": (500, 700)}, "falling"),
        ({"schedule": "list", "steps": (1001,)}, "falling"),
        ({"schedule": "list", "steps": (700, 0)}, "falling"),
        ({"noise": "pink"}, "kept or fresh"),
        ({"shift": 0.0}, "shift"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerGeometry(**wrong)
    with pytest.raises(ValueError, match="not in the list"):
        Sampler(SamplerGeometry("list", (700, 500))).level(0, 3, 0.8)


def test_settings_make_a_geometry() -> None:
    settings = {"schedule": "list", "steps": [700, 500], "shift": 5.0}
    assert SamplerGeometry.from_settings(settings) == SamplerGeometry("list", (700, 500), 5.0)
    assert SamplerGeometry.from_settings({}) == SamplerGeometry()
