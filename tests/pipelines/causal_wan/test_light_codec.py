"""A full and a light codec side by side in one Wan preset, on files that have the real layout and small sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.causal_wan import build as building
from pipelines.causal_wan import taehv, wan_vae
from pipelines.causal_wan.build import build_wan
from pipelines.causal_wan.intake import StreamState
from pipelines.causal_wan.pipeline import CausalWanPipeline
from pipelines.causal_wan.tensorfile import TensorFile, open_tensors
from pipelines.registry import Choices, Preset
from pipelines.streaming import sequential
from streamgen.core import Params, Pixels
from tests.support.wan_preset import SMALL_TAEHV, SMALL_VAE, put_small_codecs, small_wan_preset

CHOICES = [("wan", "paired"), ("wan", "taehv"), ("paired", "taehv")]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models as small as these gain nothing by more, and lose where other programs want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preset:
    monkeypatch.setenv("STREAMGEN_MODELS", str(tmp_path))
    monkeypatch.setattr(wan_vae, "WanVaeGeometry", lambda: SMALL_VAE)
    monkeypatch.setattr(taehv, "TaehvGeometry", lambda: SMALL_TAEHV)
    preset = small_wan_preset(tmp_path)
    put_small_codecs(preset, tmp_path)
    return preset


def built(preset: Preset, codec: str, light: str | None = None) -> CausalWanPipeline:
    settings = {**preset.settings, "codec": codec, "light_codec": light}
    return build_wan(replace(preset, settings=settings), Choices(device="cpu"))


def chunk(seed: int, number: int) -> Pixels:
    """Chunk `number` of a stream."""
    random = np.random.default_rng((seed, number))
    return random.integers(0, 256, (4 if number else 1, 64, 64, 3), dtype=np.uint8)


def alone(pipeline: CausalWanPipeline, params: Params, chunks: int) -> list[Pixels]:
    state = pipeline.open(params)
    shown = [sequential(pipeline, [(state, chunk(params.seed, i))])[0] for i in range(chunks)]
    pipeline.close(state)
    return shown


@pytest.mark.parametrize(("codec", "light"), CHOICES)
def test_a_stream_is_what_its_codec_alone_makes_of_it(preset: Preset, codec: str, light: str) -> None:
    both = built(preset, codec, light)
    assert both.spec.light_vae
    shown = {}
    for vae, name in (("full", codec), ("light", light)):
        single = built(preset, name)
        assert not single.spec.light_vae
        shown[vae] = np.concatenate(alone(both, replace(preset.defaults, vae=vae), 4))
        assert np.array_equal(shown[vae], np.concatenate(alone(single, preset.defaults, 4)))
    assert not np.array_equal(shown["full"], shown["light"])


@pytest.mark.parametrize(("codec", "light"), CHOICES)
def test_both_kinds_share_batches_while_streams_come_and_go(preset: Preset, codec: str, light: str) -> None:
    """Among them a session that is closed as full and opened again as light, the others going on."""
    both = built(preset, codec, light)
    singles = {"full": built(preset, codec), "light": built(preset, light)}
    lives = [("full", 0, 4), ("light", 0, 4), ("full", 0, 2), ("light", 2, 4), ("light", 1, 3), ("full", 1, 4)]
    asked = [replace(preset.defaults, vae=vae, seed=seed) for seed, (vae, _, _) in enumerate(lives)]
    states: dict[int, StreamState] = {}
    got: list[list[Pixels]] = [[] for _ in lives]
    for tick in range(4):
        for i, (_, begin, end) in enumerate(lives):
            if tick == begin:
                states[i] = both.open(asked[i])
            if tick == end:
                both.close(states.pop(i))
        pictures = sequential(both, [(state, chunk(i, tick - lives[i][1])) for i, state in states.items()])
        for i, picture in zip(states, pictures, strict=True):
            got[i].append(picture)
    for i, (vae, begin, end) in enumerate(lives):
        expected = alone(singles[vae], replace(asked[i], vae="full"), end - begin)
        for ours, theirs in zip(got[i], expected, strict=True):
            assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_what_both_are_made_of_is_loaded_once(preset: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def watched(place: Path) -> TensorFile:
        read.append(place.name)
        return open_tensors(place)

    monkeypatch.setattr(building, "open_tensors", watched)
    built(preset, "wan", "paired")
    assert sorted(read) == ["Wan2.1_VAE.pth", "taew2_1.pth"]
