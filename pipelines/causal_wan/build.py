"""The causal Wan presets, put together from their settings and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines import files
from pipelines.causal_wan import weights
from pipelines.causal_wan.attention import BACKENDS, Attention
from pipelines.causal_wan.autoencoder import AutoencoderGeometry, StreamingAutoencoder, TinyCodec
from pipelines.causal_wan.checkpoints import load_dit
from pipelines.causal_wan.codec_choice import HALVES, CodecChoice
from pipelines.causal_wan.compiling import compile_hindrance
from pipelines.causal_wan.device import choose_device, choose_dtype, describe_device, states_that_fit
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import CHUNK, CacheGeometry, DiTGeometry, SamplerGeometry
from pipelines.causal_wan.intake import SPACE, Rules
from pipelines.causal_wan.lora import LoRA, load_lora
from pipelines.causal_wan.memory import memory_of
from pipelines.causal_wan.memory_format import lay_out_channels_last
from pipelines.causal_wan.noise import NoiseGeometry
from pipelines.causal_wan.paired_codec import MeasuredCodec, PairedCodec
from pipelines.causal_wan.parts import Codec
from pipelines.causal_wan.pipeline import CausalWanPipeline, Models
from pipelines.causal_wan.taehv import TaehvCodec
from pipelines.causal_wan.tensorfile import open_tensors
from pipelines.causal_wan.tiny_text import TextGeometry, TinyText, TinyTextEncoder
from pipelines.registry import Choices, Preset
from pipelines.streaming import sequential
from streamgen.core import MAX_STEPS, PipelineSpec
from streamgen.errors import PresetError


def build_tiny(preset: Preset, choices: Choices) -> CausalWanPipeline:
    """The tiny preset, with the weights in its folder. Raises PresetError, WeightsError."""
    on, dtype = place_of(choices)
    if choices.loras:
        raise PresetError(f"LoRA files are made for Wan's own sizes; {preset.name} is none of them")
    settings = preset.settings
    dit = CausalWanModel(DiTGeometry.from_settings(settings["dit"]), attention_of(choices, on, dtype))
    text = TinyTextEncoder(TextGeometry(**settings["text"]), len(preset.styles) + 1)  # and the photograph
    for name, module in (("dit", dit), ("text", text)):
        fill_tiny(module, preset, name, on, dtype)
    compile_blocks(dit, choices, on)
    models = Models(build_tiny_codec(preset, on, dtype), dit, TinyText(text))
    spec = spec_of(preset, on, dtype, choices)
    return _rehearsed(CausalWanPipeline(spec, models, rules_of(settings), on, dtype), choices)


def build_tiny_codec(preset: Preset, device: torch.device, dtype: torch.dtype) -> TinyCodec:
    """The tiny preset's autoencoder alone. Raises WeightsError."""
    autoencoder = StreamingAutoencoder(AutoencoderGeometry(**preset.settings["autoencoder"]))
    fill_tiny(autoencoder, preset, "autoencoder", device, dtype)
    lay_out_channels_last(autoencoder)
    return TinyCodec(autoencoder)


def fill_tiny(module: torch.nn.Module, preset: Preset, name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Weights of the tiny preset into one of its models. Raises WeightsError."""
    weights.load(module, preset.folder / f"{name}.safetensors")
    module.to(device, dtype).eval().requires_grad_(False)


def build_wan(preset: Preset, choices: Choices) -> CausalWanPipeline:
    """A preset of Wan 2.1's sizes, with the weights that `streamgen models pull` fetched, and LoRA files merged.

    Raises PresetError, WeightsError. The text encoder is transformers', which takes seconds to import: only here.
    """
    from pipelines.causal_wan.umt5 import UMT5TextEncoder  # noqa: PLC0415

    on, dtype = place_of(choices)
    settings, codecs = preset.settings, codec_choice_of(preset)
    places = files.locate(preset)
    geometry = DiTGeometry.from_settings(settings["dit"])
    loras = loras_of(choices, geometry)
    with torch.device("meta"):
        dit = CausalWanModel(geometry, attention_of(choices, on, dtype))
    load_dit(dit, places["dit"], on, dtype)
    dit.eval().requires_grad_(False)
    compile_blocks(dit, choices, on)
    text = UMT5TextEncoder.load(
        places["text_encoder"], places["tokenizer"], text_len=geometry.text_len, device=on, dtype=dtype,
        offload=settings["text"]["offload"],
    )  # fmt: skip
    codec, light = build_codecs(codecs, places, on, dtype, raw_latents=settings["raw_latents"])
    models = Models(codec, dit, text, ThreadPoolExecutor(1, thread_name_prefix="prompt"), light)
    spec = spec_of(preset, on, dtype, choices, light_vae=light is not None)
    pipeline = CausalWanPipeline(spec, models, rules_of(settings), on, dtype)
    for lora, strength in loras:
        pipeline.merge(lora, strength)
    return _rehearsed(pipeline, choices)


def loras_of(choices: Choices, geometry: DiTGeometry) -> list[tuple[LoRA, float]]:
    """LoRA files to merge, each with its strength. Raises PresetError, WeightsError."""
    names = [path.name for path, _ in choices.loras]
    if twice := {name for name in names if names.count(name) > 1}:
        raise PresetError(f"two LoRA files are called {min(twice)}; give one another name")
    return [(load_lora(path, geometry), strength) for path, strength in choices.loras]


def codec_choice_of(preset: Preset) -> CodecChoice:
    """The preset's codecs, files of which it lists. Raises PresetError."""
    choice = CodecChoice.from_settings(preset.settings)
    listed = {file.role for file in files.files_of(preset)}
    if unlisted := choice.roles - listed:
        names = " and ".join(choice.names)
        raise PresetError(f"{preset.name} runs {names}, and lists no file of the role {min(unlisted)}")
    return choice


def build_codecs(
    choice: CodecChoice, places: Mapping[str, Path], device: torch.device, dtype: torch.dtype, *, raw_latents: bool
) -> tuple[Codec, Codec | None]:
    """The full codec, and the light one where there is one. What both are made of is loaded once. Raises WeightsError.

    places: of the weight files, by role.
    """
    loaded = {role: _LOADERS[role](places[role], device, dtype, raw_latents) for role in choice.roles}

    def made(name: str) -> Codec:
        encoder, decoder = (loaded[role] for role in HALVES[name])
        return encoder if encoder is decoder else PairedCodec(encoder, decoder)

    return made(choice.full), None if choice.light is None else made(choice.light)


def _wan_vae(place: Path, device: torch.device, dtype: torch.dtype, raw: bool) -> MeasuredCodec:
    from pipelines.causal_wan.wan_vae import WanCodec  # noqa: PLC0415  # diffusers takes seconds to import

    file = open_tensors(place)
    tensors = {key: file.read(key, device, dtype) for key in file.shapes}
    return WanCodec.from_state_dict(tensors, device=device, dtype=dtype, raw_latents=raw, name=file.name)


def _taehv(place: Path, device: torch.device, dtype: torch.dtype, raw: bool) -> MeasuredCodec:
    file = open_tensors(place)
    tensors = {key: file.read(key, device, torch.float32) for key in file.shapes}
    return TaehvCodec.from_state_dict(tensors, device=device, dtype=dtype, raw_latents=raw, name=file.name)


_LOADERS: Mapping[str, Callable[[Path, torch.device, torch.dtype, bool], MeasuredCodec]] = {
    "taehv": _taehv,
    "wan_vae": _wan_vae,
}


def place_of(choices: Choices) -> tuple[torch.device, torch.dtype]:
    """Where and in which format to compute. Raises PresetError."""
    if choices.threads:
        torch.set_num_threads(choices.threads)
    on = choose_device(choices.device)
    return on, choose_dtype(on)


def attention_of(choices: Choices, device: torch.device, dtype: torch.dtype) -> Attention:
    """The attention kernels. Raises PresetError where they are none for the device, or not installed."""
    if choices.attention == "xformers" and device.type == "cpu":
        raise PresetError("attention xformers has kernels for GPUs alone; leave --attention out on a CPU")
    if choices.attention != "auto":
        return BACKENDS[choices.attention]
    return BACKENDS["matmul" if device.type == "cpu" and dtype == torch.bfloat16 else "sdpa"]


def compile_blocks(dit: CausalWanModel, choices: Choices, device: torch.device) -> None:
    """Has the blocks compiled, if asked for. Raises PresetError where they cannot be."""
    if not choices.compiled:
        return
    if hindrance := compile_hindrance(device):
        raise PresetError(hindrance)
    dit.compile_blocks()


def _rehearsed(pipeline: CausalWanPipeline, choices: Choices) -> CausalWanPipeline:
    """The pipeline, its blocks compiled for any size and number of streams, so that no stream waits for it later."""
    if not choices.compiled:
        return pipeline
    spec = pipeline.spec
    small = 4 * spec.size_multiple
    for width, height in ((spec.defaults.width, spec.defaults.height), (small, small + spec.size_multiple)):
        params = replace(spec.defaults, width=width, height=height)
        for count in (1, 2):
            states = [pipeline.open(params) for _ in range(count)]
            for first in (True, False):
                chunk = np.zeros((spec.frames_wanted(first), height, width, 3), np.uint8)
                sequential(pipeline, [(state, chunk) for state in states])
            for state in states:
                pipeline.close(state)
    return pipeline


def rules_of(settings: Mapping[str, Any]) -> Rules:
    """A preset's rules."""
    return Rules(
        CacheGeometry(**settings["cache"]),
        SamplerGeometry.from_settings(settings["sampler"]),
        NoiseGeometry(**settings["noise"]),
        settings["blend_chunks"],
    )


def spec_of(
    preset: Preset, device: torch.device, dtype: torch.dtype, choices: Choices, *, light_vae: bool = False
) -> PipelineSpec:
    """What a preset's pipeline takes and gives, on one device."""
    settings, defaults = preset.settings, preset.defaults
    state_bytes = memory_of(settings, defaults, dtype.itemsize).session
    other_steps = defaults.steps + 1 if defaults.steps < MAX_STEPS else defaults.steps - 1
    other = memory_of(settings, replace(defaults, steps=other_steps), dtype.itemsize).session
    return PipelineSpec(
        name=preset.name,
        chunk_frames=CHUNK,
        first_chunk_frames=1,
        size_multiple=SPACE * settings["dit"]["patch"][1],
        max_pixels=settings["max_pixels"],
        native_fps=preset.native_fps,
        bytes_per_session=state_bytes,
        defaults=defaults,
        light_vae=light_vae,
        # On a CPU one stage has all cores already. On a GPU three threads would queue their work on one CUDA stream,
        # where it runs one after the other all the same: each stage needs a CUDA stream of its own first, and it has to
        # be measured whether that is faster.
        overlap=False,
        device=describe_device(device, dtype, compiled=choices.compiled),
        session_slots=states_that_fit(device, state_bytes),
        bytes_per_step=(other - state_bytes) // (other_steps - defaults.steps),
    )
