"""The presets over a ring of devices: what each rank builds of a preset, and how it joins the others."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from pipelines import files
from pipelines.causal_wan import weights
from pipelines.causal_wan.build import (
    attention_of,
    build_codecs,
    build_tiny_codec,
    codec_choice_of,
    compile_blocks,
    fill_tiny,
    loras_of,
    place_of,
    rules_of,
    spec_of,
)
from pipelines.causal_wan.checkpoints import load_dit
from pipelines.causal_wan.device import states_that_fit
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.lora import MergedLoRAs
from pipelines.causal_wan.part import Part
from pipelines.causal_wan.parts import Codec
from pipelines.causal_wan.tiny_text import TextGeometry, TinyText, TinyTextEncoder
from pipelines.ring import parts
from pipelines.ring.arrangement import SPARE_CHUNKS
from pipelines.ring.balance import Balancer
from pipelines.ring.group import Group
from pipelines.ring.parts import RankModels, Words
from pipelines.ring.pipeline import RingPipeline
from pipelines.ring.seat import Seat
from streamgen.core import PipelineSpec
from streamgen.errors import PresetError


@dataclass(frozen=True)
class _Built:
    """What a rank makes of a preset."""

    models: RankModels
    light_vae: bool
    words: Words | None
    """Of the first rank."""


def follow(seat: Seat, rendezvous: str) -> None:
    """Runs a rank behind the first, until that one says stop. Raises StreamgenError."""
    built = _build(seat)
    group = Group(rendezvous, seat.rank, len(seat.devices), built.models.device)
    try:
        parts.follow(built.models, seat.arrangement, group)
    finally:
        group.leave()


def lead(seat: Seat, rendezvous: str) -> RingPipeline:
    """The first rank: the pipeline over all of them. Raises StreamgenError."""
    built = _build(seat)
    assert built.words is not None, "prompts come in at the first rank"
    group = Group(rendezvous, seat.rank, len(seat.devices), built.models.device)
    balancer = Balancer(seat.arrangement.split)
    if seat.fixed:
        balancer.freeze()
    return parts.lead(built.models, seat.arrangement, group, _spec(seat, built), built.words, balancer)


def _spec(seat: Seat, built: _Built) -> PipelineSpec:
    models, stages = built.models, len(seat.devices)
    spec = spec_of(seat.preset, models.device, models.dtype, seat.own, light_vae=built.light_vae)
    return replace(
        spec,
        device=f"{stages} x {spec.device}",
        stages=stages,
        flight=stages + SPARE_CHUNKS,
        session_slots=states_that_fit(models.device, spec.bytes_per_session // stages),
    )


def _build(seat: Seat) -> _Built:
    with torch.inference_mode():
        return (_build_tiny if "autoencoder" in seat.preset.settings else _build_wan)(seat)


def _build_tiny(seat: Seat) -> _Built:
    preset, choices, part = seat.preset, seat.own, seat.part
    settings = preset.settings
    if choices.loras:
        raise PresetError(f"LoRA files are made for Wan's own sizes; {preset.name} is none of them")
    on, dtype = place_of(choices)
    with torch.device("meta"):
        dit = CausalWanModel(DiTGeometry.from_settings(settings["dit"]), attention_of(choices, on, dtype))
    weights.load(dit, preset.folder / "dit.safetensors", part.keeps)
    for name, tensor in dit.state_dict().items():
        if part.keeps(name):
            tensor.data = tensor.to(on, dtype)
    dit.eval().requires_grad_(False)
    compile_blocks(dit, choices, on)
    codec = build_tiny_codec(preset, on, dtype) if part.first or part.last else None
    words = None
    if part.first:
        text = TinyTextEncoder(TextGeometry(**settings["text"]), len(preset.styles) + 1)  # and the photograph
        fill_tiny(text, preset, "text", on, dtype)
        words = Words(TinyText(text), settings["blend_chunks"])
    codecs: Mapping[str, Codec] = {} if codec is None else {"full": codec}
    _part_with_the_rest(codecs, part)
    return _Built(RankModels(dit, rules_of(settings), on, dtype, codecs), light_vae=False, words=words)


def _build_wan(seat: Seat) -> _Built:
    """The text encoder is transformers', which takes seconds to import: only here."""
    from pipelines.causal_wan.umt5 import UMT5TextEncoder  # noqa: PLC0415

    preset, choices, part = seat.preset, seat.own, seat.part
    settings = preset.settings
    on, dtype = place_of(choices)
    chosen, places = codec_choice_of(preset), files.locate(preset)
    geometry = DiTGeometry.from_settings(settings["dit"])
    loras = loras_of(choices, geometry)
    with torch.device("meta"):
        dit = CausalWanModel(geometry, attention_of(choices, on, dtype))
    load_dit(dit, places["dit"], on, dtype, kept=part)
    dit.eval().requires_grad_(False)
    merged = MergedLoRAs(dit)
    for lora, strength in loras:
        merged.merge(lora, strength)
    compile_blocks(dit, choices, on)
    codecs: Mapping[str, Codec] = {}
    if part.first or part.last:
        full, light = build_codecs(chosen, places, on, dtype, raw_latents=settings["raw_latents"])
        codecs = {"full": full} if light is None else {"full": full, "light": light}
        _part_with_the_rest(codecs, part)
    words = None
    if part.first:
        text = UMT5TextEncoder.load(
            places["text_encoder"], places["tokenizer"], text_len=geometry.text_len, device=on, dtype=dtype,
            offload=settings["text"]["offload"],
        )  # fmt: skip
        executor = ThreadPoolExecutor(1, thread_name_prefix="prompt")
        words = Words(text, settings["blend_chunks"], executor)
    models = RankModels(dit, rules_of(settings), on, dtype, codecs)
    return _Built(models, light_vae=chosen.light is not None, words=words)


def _part_with_the_rest(codecs: Mapping[str, Codec], part: Part) -> None:
    """The first rank encodes, and the last decodes."""
    for codec in codecs.values():
        if not part.last:
            codec.part_with("decoder")
        if not part.first:
            codec.part_with("encoder")
