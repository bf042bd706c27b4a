from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines import PRESETS
from pipelines.causal_wan.geometry import CHUNK
from pipelines.causal_wan.memory import shares_of
from pipelines.ring.replica import Device, Load, Replica, replica_of
from pipelines.ring.roofline import CHIPS, Chip, chip_of, estimate, slowest_with

PAPER = {
    ("wan-1.3b", 832, 480, 1): (20.47, 17.97, 15.68, 13.95),
    ("wan-1.3b", 832, 480, 2): (39.77, 34.67, 30.69, 27.06),
    ("wan-1.3b", 832, 480, 4): (44.38, 43.41, 43.08, 42.26),
    ("wan-1.3b", 512, 512, 1): (26.21, 24.02, 21.51, 19.43),
    ("wan-1.3b", 512, 512, 2): (51.76, 46.92, 41.09, 37.49),
    ("wan-1.3b", 512, 512, 4): (64.52, 63.99, 62.43, 61.57),
    ("wan-14b", 832, 480, 1): (12.68, 8.64, 6.49, 5.28),
    ("wan-14b", 832, 480, 2): (25.39, 17.31, 13.23, 10.69),
    ("wan-14b", 832, 480, 4): (39.24, 33.36, 25.02, 20.05),
    ("wan-14b", 512, 512, 1): (18.71, 13.01, 10.09, 8.26),
    ("wan-14b", 512, 512, 2): (37.12, 25.72, 20.11, 16.65),
    ("wan-14b", 512, 512, 4): (58.28, 51.09, 38.41, 31.62),
}
"""Frames a second with Wan's VAE on 1, 2 and 4 H100, at 1 to 4 steps (arXiv 2511.07399): a chunk is 4 frames."""


def h100(preset: str, width: int, height: int) -> Device:
    chosen, chip = PRESETS[preset], chip_of("NVIDIA H100 80GB HBM3")
    assert chip is not None
    params = replace(chosen.defaults, width=width, height=height)
    return estimate("H100", 80 * 10**9, chip, {**chosen.settings, "codec": "wan"}, params)


@pytest.mark.parametrize(("setting", "measured"), PAPER.items(), ids=str)
def test_estimates_and_rings_are_near_what_the_paper_measured(
    setting: tuple[str, int, int, int], measured: tuple[float, ...]
) -> None:
    preset, width, height, ranks = setting
    devices = [replace(h100(preset, width, height), memory_bytes=None)] * ranks
    for steps, fps in enumerate(measured, start=1):
        shares = shares_of(PRESETS[preset].settings, replace(PRESETS[preset].defaults, steps=steps))
        ring = replica_of(devices, shares, Load(1, 1.0, steps, 60.0))
        assert isinstance(ring, Replica)
        assert CHUNK * ring.rows_per_s / steps == pytest.approx(fps, rel=0.35)


@pytest.mark.parametrize(
    ("name", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("rtx4090", "RTX 4090"),
    ],
)
def test_chips_are_known_by_their_names(name: str, chip: str) -> None:
    found = chip_of(name)
    assert found is not None
    assert found.name == chip


@pytest.mark.parametrize("name", ["NVIDIA RTX A4000", "Quadro RTX 6000", "Tesla T4", "NVIDIA A1000", ""])
def test_others_are_not_taken_for_them(name: str) -> None:
    assert chip_of(name) is None


def test_a_gpu_of_unknown_kind_is_not_thought_better_than_it_may_be() -> None:
    assert slowest_with(24 * 10**9).name == "A10G"
    assert slowest_with(80 * 10**9).name == "A100"
    assert slowest_with(10**12) == max(CHIPS, key=lambda chip: chip.gigabytes)


def test_slow_memory_and_small_models_bound_a_row() -> None:
    preset = PRESETS["wan-14b"]
    starved = Chip("starved", 80, 1e6, 100.0)
    device = estimate("x", 80 * 10**9, starved, preset.settings, preset.defaults)
    assert device.row_s == pytest.approx((28.6 + 5.0) / 100, rel=0.05)  # weights, and the cache of 6 latent frames
    tiny = PRESETS["tiny"]
    assert estimate("x", 10**9, CHIPS[0], tiny.settings, tiny.defaults).row_s == pytest.approx(6 * 0.2e-3)
    assert device.estimated
