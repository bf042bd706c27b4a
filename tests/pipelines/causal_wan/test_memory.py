from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from pipelines import PRESETS, build
from pipelines.causal_wan import memory
from pipelines.causal_wan.autoencoder import AutoencoderGeometry, StreamingAutoencoder, TinyCodec
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry
from pipelines.causal_wan.taehv import Taehv
from pipelines.causal_wan.taehv_geometry import TaehvGeometry
from pipelines.causal_wan.wan_vae_geometry import WanVaeGeometry
from pipelines.streaming import sequential
from streamgen.errors import PresetError

WAN = PRESETS["wan-1.3b"]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["tiny", "wan-1.3b", "wan-14b"])
def test_the_dits_parameters_are_counted_right(name: str) -> None:
    geometry = DiTGeometry.from_settings(PRESETS[name].settings["dit"])
    with torch.device("meta"):
        assert memory.dit_parameters(geometry) == parameters(CausalWanModel(geometry))


def test_the_other_models_are_as_large_as_written_down() -> None:
    xxl = UMT5Config(
        vocab_size=256384,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        layers = UMT5EncoderModel(xxl).encoder
        wan, taehv = AutoencoderKLWan(), Taehv(TaehvGeometry())
        sizes = {
            memory._UMT5_LAYERS_PARAMETERS: parameters(layers) - 256384 * 4096,
            memory._CODEC_PARAMETERS["wan_vae"].encoder: parameters(wan.encoder),
            memory._CODEC_PARAMETERS["wan_vae"].decoder: parameters(wan.decoder),
            memory._CODEC_PARAMETERS["taehv"].encoder: parameters(taehv.encoder),
            memory._CODEC_PARAMETERS["taehv"].decoder: parameters(taehv.decoder),
        }
    for written, real in sizes.items():
        assert written == pytest.approx(real, rel=0.01)


@pytest.mark.parametrize(("width", "height"), [(832, 480), (512, 512)])
def test_codecs_keep_what_their_own_geometry_says(width: int, height: int) -> None:
    taehv, wan = TaehvGeometry(), WanVaeGeometry()
    for codec, halves in (("taehv", (taehv, taehv)), ("wan", (wan, wan)), ("paired", (wan, taehv))):
        encoder = halves[0].encoder_bytes(height, width, torch.bfloat16)
        decoder = halves[1].decoder_bytes(height, width, torch.bfloat16)
        assert memory.codec_bytes({"codec": codec}, width, height) == encoder + decoder


@pytest.mark.parametrize(("codec", "light"), [("wan", "paired"), ("wan", "taehv"), ("paired", "taehv")])
def test_a_stream_is_counted_with_the_codec_that_keeps_more(codec: str, light: str) -> None:
    both = memory.codec_bytes({"codec": codec, "light_codec": light}, 832, 480)
    assert both == max(memory.codec_bytes({"codec": name}, 832, 480) for name in (codec, light))
    whole = memory.memory_of({**WAN.settings, "codec": codec, "light_codec": light}, WAN.defaults)
    assert whole.session == memory.memory_of({**WAN.settings, "codec": codec}, WAN.defaults).session


def test_both_codecs_weights_are_counted_and_what_they_share_once() -> None:
    def weights(**codecs: str) -> int:
        return memory.memory_of({**WAN.settings, **codecs}, WAN.defaults).weights

    taehv, wan = (2 * sum(memory._CODEC_PARAMETERS[role]) for role in ("taehv", "wan_vae"))
    dit = weights(codec="taehv") - taehv
    assert weights(codec="wan") == dit + wan
    for codec, light in (("wan", "taehv"), ("wan", "paired"), ("paired", "taehv")):
        assert weights(codec=codec, light_codec=light) == dit + wan + taehv


def test_codecs_that_cannot_be_run_have_no_size() -> None:
    with pytest.raises(PresetError, match="light_codec wan is not lighter"):
        memory.memory_of({**WAN.settings, "light_codec": "wan"}, WAN.defaults)


def test_the_tiny_codec_keeps_what_is_measured() -> None:
    settings: dict[str, Any] = {"autoencoder": {"latent_channels": 4, "width": 16, "frame_width": 8}}
    codec = TinyCodec(StreamingAutoencoder(AutoencoderGeometry(**settings["autoencoder"])).eval())
    state = codec.open()
    with torch.inference_mode():
        codec.decode([state], codec.encode([state], torch.zeros(1, 1, 3, 64, 96)))
    carried = [part for part in state.carried if part is not None]
    assert len(carried) == 2
    assert memory.codec_bytes(settings, 96, 64, itemsize=4) == sum(part.nbytes for part in carried)


def test_the_cache_is_counted_for_every_step_that_has_its_own() -> None:
    dit = DiTGeometry.from_settings(WAN.settings["dit"])
    own = CacheGeometry(window=6, sinks=3, sink_threshold=0.2)
    shared = CacheGeometry(window=6, sinks=3, sink_threshold=0.2, memory="last")
    one = memory.cache_bytes(dit, own, 512 * 512, 1)
    ring = 2 * 30 * 6 * 1024 * 1536 * 2  # keys and values: layers x frames x tokens x channels x bytes
    sinks = 30 * 4 * 1024 * 12 * 44 * 2  # layers x (sinks + 1) x tokens x heads x channels that turn with time x bytes
    assert one == pytest.approx(ring + sinks, rel=0.01)
    assert memory.cache_bytes(dit, own, 512 * 512, 3) == 3 * one
    assert memory.cache_bytes(dit, shared, 512 * 512, 3) == one


def test_a_session_of_the_tiny_preset_takes_what_its_spec_says() -> None:
    """Measured: cache slots in use, prompt and codec state, within 10 %."""
    pipeline = build("tiny", "cpu")
    state = pipeline.open(pipeline.spec.defaults)
    for frames in (1, 4, 4, 4, 4):
        sequential(pipeline, [(state, np.zeros((frames, 192, 320, 3), np.uint8))])
    cache = state.latents.cache
    held = cache.bytes * cache.taken // cache.slots
    held += sum(x.nbytes for layer in state.latents.context for x in layer if isinstance(x, torch.Tensor))
    held += sum(part.nbytes for part in state.codec.carried if part is not None)
    assert held == pytest.approx(pipeline.spec.bytes_per_session, rel=0.1)


def test_the_text_encoder_counts_while_it_is_on_the_device() -> None:
    offloaded = memory.memory_of({**WAN.settings, "text": {"offload": True}}, WAN.defaults)
    kept = memory.memory_of({**WAN.settings, "text": {"offload": False}}, WAN.defaults)
    assert kept.prompt == 0
    assert kept.weights - offloaded.weights == pytest.approx(9.3e9, rel=0.01)
    assert offloaded.prompt == pytest.approx(9.3e9 / 24, rel=0.01)  # a layer
    assert offloaded.session == kept.session
    tiny = PRESETS["tiny"]
    assert memory.memory_of(tiny.settings, tiny.defaults).prompt == 0


@pytest.mark.parametrize("name", ["tiny", "wan-1.3b", "wan-14b"])
def test_devices_that_share_the_blocks_hold_together_what_one_would(name: str) -> None:
    preset = PRESETS[name]
    shares = memory.shares_of(preset.settings, preset.defaults)
    whole = memory.memory_of(preset.settings, preset.defaults)
    front = shares.part(2, first=True, last=False)
    middle = shares.part(0, first=False, last=False)
    back = shares.part(shares.layers - 2, first=False, last=True)
    assert middle == memory.Memory(0, 0, 0)
    assert front.weights + back.weights == whole.weights
    assert front.session + back.session == whole.session
    assert (front.prompt, back.prompt) == (whole.prompt, 0)
    assert whole.of(3) == whole.weights + whole.prompt + 3 * whole.session


def test_the_ends_hold_the_codec_that_keeps_more_and_the_blocks_the_rest() -> None:
    wan = memory.shares_of({**WAN.settings, "codec": "wan", "light_codec": "taehv"}, WAN.defaults)
    taehv = memory.shares_of(WAN.settings, WAN.defaults)
    geometry = WanVaeGeometry()
    assert wan.first.session == geometry.encoder_bytes(480, 832, torch.bfloat16)
    assert wan.last.session == geometry.decoder_bytes(480, 832, torch.bfloat16)
    assert wan.block == taehv.block
    model = DiTGeometry.from_settings(WAN.settings["dit"])
    with torch.device("meta"):
        dit = CausalWanModel(model)
    assert taehv.block.weights == 2 * parameters(dit.blocks[0])
    assert taehv.last.weights == 2 * (parameters(dit.head) + memory._CODEC_PARAMETERS["taehv"].decoder)


def test_without_a_dit_nothing_is_taken() -> None:
    preset = PRESETS["passthrough"]
    assert memory.memory_of(preset.settings, preset.defaults) == memory.Memory(0, 0, 0)


def test_it_needs_no_torch() -> None:
    program = (
        "import sys, pipelines; from pipelines.causal_wan.memory import memory_of;"
        "[memory_of(p.settings, p.defaults) for p in pipelines.PRESETS.values()];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
