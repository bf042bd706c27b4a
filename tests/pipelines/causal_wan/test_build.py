"""The Wan presets' builder, on files that have the real layout and small sizes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.causal_wan.build import build_wan
from pipelines.causal_wan.checkpoints import wan_shapes
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.pipeline import CausalWanPipeline
from pipelines.causal_wan.taehv_geometry import TaehvGeometry
from pipelines.files import files_of
from pipelines.registry import PRESETS, Preset, build
from pipelines.streaming import sequential
from streamgen.core import Params
from streamgen.errors import ParamsError, PresetError, WeightsError
from tests.support.codecs import random_taehv
from tests.support.umt5 import make_tokenizer, umt5_state

SMALL = DiTGeometry(
    latent_channels=16, cond_channels=0, patch=(1, 2, 2), dim=24, ffn_dim=40, heads=2, layers=2, freq_dim=16,
    text_dim=16, text_len=12, prediction="flow",
)  # fmt: skip


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preset:
    """wan-1.3b with a small DiT and a small text encoder, its files where `models pull` would put them."""
    monkeypatch.setenv("STREAMGEN_MODELS", str(tmp_path))
    real = PRESETS["wan-1.3b"]
    small = replace(
        real, settings={**real.settings, "dit": asdict(SMALL)}, defaults=replace(real.defaults, width=64, height=64)
    )
    places = {file.role: file.place(tmp_path) for file in files_of(real)}
    for place in places.values():
        place.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    dit = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in wan_shapes(SMALL).items()}
    torch.save({"generator_ema": {f"model.{name}": tensor for name, tensor in dit.items()}}, places["dit"])
    torch.save(umt5_state(), places["text_encoder"])
    make_tokenizer(tmp_path).joinpath("tokenizer.json").rename(places["tokenizer"])
    torch.save(random_taehv(TaehvGeometry()), places["taehv"])
    places["wan_vae"].write_bytes(b"not needed with taehv")
    return small


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def run(pipeline: CausalWanPipeline, params: Params, chunks: int = 8) -> np.ndarray:
    state = pipeline.open(params)
    out = [sequential(pipeline, [(state, frames(4 if i else 1, i))])[0] for i in range(chunks)]
    pipeline.close(state)
    return np.concatenate(out)


def test_a_wan_preset_streams_from_its_files(preset: Preset) -> None:
    pipeline = build_wan(preset, "cpu", 0)
    params = replace(preset.defaults, prompt="oil", steps=2)
    first = run(pipeline, params)
    assert first.shape == (29, 64, 64, 3)
    assert np.array_equal(first, run(pipeline, params))
    assert not np.array_equal(first, run(pipeline, replace(params, prompt="pencil sketch")))
    assert not np.array_equal(first, run(pipeline, replace(params, seed=5)))


def test_more_steps_than_the_list_has_are_refused(preset: Preset) -> None:
    settings = {**preset.settings, "sampler": {**preset.settings["sampler"], "steps": [700, 500]}}
    pipeline = build_wan(replace(preset, settings=settings), "cpu", 0)
    with pytest.raises(ParamsError, match="steps: this preset takes at most 2"):
        pipeline.open(replace(preset.defaults, steps=3))


def test_a_prompt_that_takes_long_to_encode_stops_no_chunk(preset: Preset) -> None:
    """The stream goes on under the old prompt; the new one holds as soon as it is encoded."""
    pipeline = build_wan(preset, "cpu", 0)
    state = pipeline.open(replace(preset.defaults, prompt="oil"))
    sequential(pipeline, [(state, frames(1))])
    old = state.latents.context[0][0]
    pipeline.update(state, replace(preset.defaults, prompt="ink"))
    assert state.prompt._coming is not None
    state.prompt._coming.result(timeout=30)
    for i in range(2):
        sequential(pipeline, [(state, frames(4, i))])
    assert not torch.equal(state.latents.context[0][0], old)


def test_missing_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMGEN_MODELS", str(tmp_path))
    with pytest.raises(WeightsError, match="streamgen models pull wan-14b"):
        build("wan-14b", "cpu")


def test_an_unknown_preset_device_or_codec_is_named(preset: Preset) -> None:
    with pytest.raises(PresetError, match="no preset 'huge'"):
        build("huge")
    with pytest.raises(PresetError, match="no device 'tpu'"):
        build("tiny", device="tpu")
    with pytest.raises(PresetError, match="not 'jpeg'"):
        build_wan(replace(preset, settings={**preset.settings, "codec": "jpeg"}), "cpu", 0)
