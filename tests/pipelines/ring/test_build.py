"""Presets over several devices: what each rank loads, and that together they give what one device gives."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import pipelines
from pipelines.causal_wan.build import build_wan
from pipelines.registry import PRESETS, Choices, Preset
from pipelines.ring.build import _build, lead
from pipelines.ring.seat import Seat, follow, seats
from pipelines.streaming import sequential
from streamgen.core import Pipeline
from streamgen.errors import PresetError
from tests.support.wan_preset import small_wan_preset

SPAWNED = multiprocessing.get_context("spawn")  # with the environment of now, which says where the models are
CHOICES = Choices(device="cpu", threads=1)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preset:
    monkeypatch.setenv("STREAMGEN_MODELS", str(tmp_path))
    return small_wan_preset(tmp_path)


def loaded(seat: Seat) -> set[str]:
    return {name for name, tensor in _build(seat).models.dit.state_dict().items() if not tensor.is_meta}


@pytest.mark.parametrize("devices", [2, 3])
def test_every_tensor_of_the_transformer_is_on_one_rank(devices: int) -> None:
    ranks = [loaded(seat) for seat in seats(PRESETS["tiny"], ["cpu"] * devices, CHOICES)]
    assert sum(map(len, ranks)) == len(set().union(*ranks))
    assert all("blocks.0.modulation" in rank for rank in ranks[:1])
    assert "patch_embedding.weight" in ranks[0]
    assert "head.linear.weight" in ranks[-1]


def test_the_first_rank_encodes_and_the_last_decodes_and_those_between_do_neither(small: Preset) -> None:
    first, last = (_build(seat) for seat in seats(small, ["cpu", "cpu"], CHOICES))
    assert set().union(*map(loaded, seats(small, ["cpu", "cpu"], CHOICES))) == set(first.models.dit.state_dict())
    assert first.words is not None
    assert last.words is None
    frames, latents = torch.zeros(1, 1, 3, 64, 64), torch.zeros(1, 16, 1, 8, 8)
    first.models.codecs["full"].encode([first.models.codecs["full"].open()], frames)
    last.models.codecs["full"].decode([last.models.codecs["full"].open()], latents)
    for models, half in ((first.models, "_decoder"), (last.models, "_encoder")):
        assert all(weight.is_meta for weight in getattr(models.codecs["full"], half).parameters())
    middle = _build(seats(PRESETS["tiny"], ["cpu"] * 3, CHOICES)[1])
    assert not middle.models.codecs
    assert middle.words is None


def clip(width: int, height: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (4 if i else 1, height, width, 3), dtype=np.uint8) for i in range(6)]


def run(pipeline: Pipeline[object], chunks: Sequence[np.ndarray]) -> np.ndarray:
    state = pipeline.open(pipeline.spec.defaults)
    return np.concatenate([sequential(pipeline, [(state, chunk)])[0] for chunk in chunks])


def over_ranks(its: Sequence[Seat], rendezvous: Path, chunks: Sequence[np.ndarray]) -> np.ndarray:
    first, *others = its
    processes = [
        SPAWNED.Process(target=follow, args=(pickle.loads(pickle.dumps(seat)), str(rendezvous)), daemon=True)
        for seat in others
    ]
    for process in processes:
        process.start()
    pipeline = lead(first, str(rendezvous))
    try:
        assert (pipeline.spec.stages, pipeline.spec.flight) == (len(its), len(its) + 2)
        return run(pipeline, chunks)
    finally:
        pipeline.stop()
        torch.distributed.destroy_process_group()
        for process in processes:
            process.join(10)
            assert process.exitcode == 0


def test_tiny_over_two_devices_is_tiny(tmp_path: Path) -> None:
    its = seats(PRESETS["tiny"], ["cpu", "cpu"], CHOICES)
    got = over_ranks(its, tmp_path / "rendezvous", clip(320, 192))
    want = run(pipelines.build("tiny", device="cpu", threads=1), clip(320, 192))
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


def test_a_wan_preset_over_two_devices_is_that_preset(small: Preset, tmp_path: Path) -> None:
    got = over_ranks(seats(small, ["cpu", "cpu"], CHOICES), tmp_path / "rendezvous", clip(64, 64))
    want = run(build_wan(small, CHOICES), clip(64, 64))
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


def test_a_team_knows_what_it_is_before_anything_heavy_is_loaded() -> None:
    head, others = pipelines.team("tiny", ("cpu", "cpu", "cpu"), 1)
    assert len(others) == 2
    pickle.loads(pickle.dumps((head, others)))


@pytest.mark.parametrize(
    ("preset", "devices", "problem"),
    [
        ("fake", ["cpu", "cpu"], "no transformer to spread"),
        ("tiny", ["cpu"] * 7, "6 blocks, too few for 7 devices"),
        ("none", ["cpu", "cpu"], "no preset 'none'"),
    ],
)
def test_what_cannot_be_spread_is_refused(preset: str, devices: list[str], problem: str) -> None:
    with pytest.raises(PresetError, match=problem):
        pipelines.team(preset, devices)
