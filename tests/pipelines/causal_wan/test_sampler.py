import pytest
import torch

from pipelines.causal_wan.sampler import add_noise, clean_from, draw_noise, sigma_at

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
