"""The Wan presets' builder, on files that have the real layout and small sizes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines.causal_wan.build import build_wan
from pipelines.causal_wan.lora import load_lora
from pipelines.causal_wan.pipeline import CausalWanPipeline
from pipelines.registry import Choices, Preset, build
from pipelines.streaming import sequential
from streamgen.core import Params
from streamgen.errors import ParamsError, PresetError, WeightsError
from tests.support.wan_preset import SMALL, small_wan_preset

CPU = Choices(device="cpu")


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preset:
    monkeypatch.setenv("STREAMGEN_MODELS", str(tmp_path))
    return small_wan_preset(tmp_path)


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def run(pipeline: CausalWanPipeline, params: Params, chunks: int = 8) -> np.ndarray:
    state = pipeline.open(params)
    out = [sequential(pipeline, [(state, frames(4 if i else 1, i))])[0] for i in range(chunks)]
    pipeline.close(state)
    return np.concatenate(out)


def test_a_wan_preset_streams_from_its_files(preset: Preset) -> None:
    pipeline = build_wan(preset, CPU)
    params = replace(preset.defaults, prompt="oil", steps=2)
    first = run(pipeline, params)
    assert first.shape == (29, 64, 64, 3)
    assert np.array_equal(first, run(pipeline, params))
    assert not np.array_equal(first, run(pipeline, replace(params, prompt="pencil sketch")))
    assert not np.array_equal(first, run(pipeline, replace(params, seed=5)))


def test_more_steps_than_the_list_has_are_refused(preset: Preset) -> None:
    settings = {**preset.settings, "sampler": {**preset.settings["sampler"], "steps": [700, 500]}}
    pipeline = build_wan(replace(preset, settings=settings), CPU)
    with pytest.raises(ParamsError, match="steps: this preset takes at most 2"):
        pipeline.open(replace(preset.defaults, steps=3))


def test_a_prompt_that_takes_long_to_encode_stops_no_chunk(preset: Preset) -> None:
    """The stream goes on under the old prompt; the new one holds as soon as it is encoded."""
    pipeline = build_wan(preset, CPU)
    state = pipeline.open(replace(preset.defaults, prompt="oil"))
    sequential(pipeline, [(state, frames(1))])
    old = state.latents.context[0][0]
    pipeline.update(state, replace(preset.defaults, prompt="ink"))
    assert state.prompt._coming is not None
    state.prompt._coming.result(timeout=30)
    for i in range(2):
        sequential(pipeline, [(state, frames(4, i))])
    assert not torch.equal(state.latents.context[0][0], old)


def lora_file(folder: Path) -> Path:
    """A LoRA of one self-attention and one cross-attention matrix."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for module, columns in {"blocks.0.self_attn.q": 24, "blocks.1.cross_attn.k": 24, "time_embedding.0": 16}.items():
        tensors[f"diffusion_model.{module}.lora_A.weight"] = torch.randn(2, columns, generator=generator)
        tensors[f"diffusion_model.{module}.lora_B.weight"] = torch.randn(SMALL.dim, 2, generator=generator)
    save_file(tensors, folder / "style.safetensors")
    return folder / "style.safetensors"


def test_a_lora_chosen_at_the_start_is_one_merged_later_and_unmerged_it_is_gone(preset: Preset, tmp_path: Path) -> None:
    path = lora_file(tmp_path)
    chosen = build_wan(preset, replace(CPU, loras=((path, 0.7),)))
    assert chosen.loras == {"style.safetensors": 0.7}
    pipeline, lora = build_wan(preset, CPU), load_lora(path, SMALL)
    plain = run(pipeline, preset.defaults)
    pipeline.merge(lora, 0.7)
    merged = run(pipeline, preset.defaults)
    assert not np.array_equal(merged, plain)
    assert np.array_equal(merged, run(chosen, preset.defaults))
    pipeline.unmerge(lora)
    assert pipeline.loras == {}
    assert np.array_equal(run(pipeline, preset.defaults), plain)


def test_a_lora_merged_in_mid_stream_holds_for_the_next_chunk(preset: Preset, tmp_path: Path) -> None:
    """Also in what is kept from chunk to chunk: the prompt's keys, and what the layers are told of noise levels."""
    pipeline = build_wan(preset, CPU)
    state, other = pipeline.open(preset.defaults), pipeline.open(preset.defaults)
    sequential(pipeline, [(state, frames(1))])
    times = {level: known[0].clone() for level, known in pipeline._denoiser._times._known.items()}
    pipeline.merge(load_lora(lora_file(tmp_path), SMALL))
    sequential(pipeline, [(state, frames(4, 1))])
    again = {level: known[0] for level, known in pipeline._denoiser._times._known.items()}
    assert times.keys() & again.keys()
    assert not any(torch.equal(times[level], again[level]) for level in times.keys() & again.keys())
    sequential(pipeline, [(other, frames(1))])
    fresh = pipeline.open(preset.defaults)
    expected = fresh.prompt.next()
    for stream in (state, other):
        assert torch.equal(stream.latents.context[1][0], expected[1][0])
    assert not torch.equal(build_wan(preset, CPU).open(preset.defaults).prompt.next()[1][0], expected[1][0])


def test_a_lora_that_does_not_fit_is_refused(preset: Preset, tmp_path: Path) -> None:
    save_file({"blocks.7.self_attn.q.lora_A.weight": torch.zeros(2, 24)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=r"odd\.safetensors does not fit the model: .*blocks\.7"):
        build_wan(preset, replace(CPU, loras=((tmp_path / "odd.safetensors", 1.0),)))
    with pytest.raises(PresetError, match="LoRA files are made for Wan's own sizes; tiny is none of them"):
        build("tiny", "cpu", loras=[(tmp_path / "odd.safetensors", 1.0)])


def test_the_attention_can_be_chosen(preset: Preset) -> None:
    plain = run(build_wan(preset, CPU), preset.defaults)
    close = run(build_wan(preset, replace(CPU, attention="by_head")), preset.defaults)
    assert np.abs(plain.astype(int) - close).max() <= 1
    with pytest.raises(PresetError, match="no attention 'magic'"):
        build_wan(preset, replace(CPU, attention="magic"))


def test_a_lora_for_another_model_or_of_the_same_name_is_refused(preset: Preset, tmp_path: Path) -> None:
    pipeline, lora = build_wan(preset, CPU), load_lora(lora_file(tmp_path), SMALL)
    plain = run(pipeline, preset.defaults)
    with pytest.raises(ValueError, match=r"style\.safetensors was loaded for another model"):
        pipeline.merge(replace(lora, geometry=replace(SMALL, layers=1)))
    assert pipeline.loras == {}
    assert np.array_equal(run(pipeline, preset.defaults), plain)
    (tmp_path / "other").mkdir()
    twice = ((tmp_path / "style.safetensors", 1.0), (tmp_path / "other" / "style.safetensors", 1.0))
    with pytest.raises(PresetError, match=r"two LoRA files are called style\.safetensors"):
        build_wan(preset, replace(CPU, loras=twice))


def test_compiling_needs_a_compiler(preset: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PresetError, match=r"takes a C\+\+ compiler, and there is no g\+\+"):
        build_wan(preset, replace(CPU, compiled=True))


def test_xformers_is_for_gpus(preset: Preset) -> None:
    with pytest.raises(PresetError, match="kernels for GPUs alone"):
        build_wan(preset, replace(CPU, attention="xformers"))


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
        build_wan(replace(preset, settings={**preset.settings, "codec": "jpeg"}), CPU)


def test_the_spec_names_the_device_and_what_its_speed_depends_on(preset: Preset) -> None:
    spec = build_wan(preset, CPU).spec
    threads = torch.get_num_threads()
    assert re.fullmatch(rf"cpu: \S.*, {threads} threads, (bfloat16|float32), not compiled", spec.device)
    assert not spec.overlap


def test_a_codec_whose_file_the_preset_does_not_list_is_named(preset: Preset) -> None:
    files = [entry for entry in preset.settings["files"] if entry["role"] != "wan_vae"]
    settings = {**preset.settings, "files": files}
    build_wan(replace(preset, settings=settings), CPU)
    with pytest.raises(PresetError, match=r"wan-1\.3b runs paired and taehv, and lists no file of the role wan_vae"):
        build_wan(replace(preset, settings={**settings, "codec": "paired", "light_codec": "taehv"}), CPU)
