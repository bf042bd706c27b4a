from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from pipelines import PRESETS
from pipelines.causal_wan.autoencoder import AutoencoderGeometry, StreamingAutoencoder, TinyCodec
from pipelines.causal_wan.flops import codec_flops, dit_flops
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.paired_codec import PairedCodec
from pipelines.causal_wan.parts import Codec
from pipelines.causal_wan.taehv import Taehv, TaehvCodec
from pipelines.causal_wan.taehv_geometry import TaehvGeometry
from pipelines.causal_wan.wan_vae import WanCodec
from pipelines.causal_wan.wan_vae_geometry import WanVaeGeometry
from streamgen.errors import PresetError
from tests.support.gpu_models import CPU, GEOMETRY, GRID, STAYING, clean, denoiser, opened


def test_the_arithmetic_counts_what_a_pass_computes() -> None:
    made = denoiser(CPU, torch.float32, STAYING, attention="matmul")
    some = next(made[1].parameters())
    tokens = GRID[0] * GRID[1]
    with torch.inference_mode():
        streams = [opened(made, number) for number in range(2)]
        for chunk in range(STAYING.window + 1):
            rows = [made[0].start(stream, clean(0, chunk, some), 1, 0.8) for stream in streams]
            with FlopCounterMode(display=False) as counter:
                made[0].step(rows)
    assert counter.get_total_flops() == dit_flops(GEOMETRY, tokens, STAYING.window * tokens, rows=2)


@pytest.mark.parametrize(
    ("name", "tokens", "teraflops"),
    [("wan-1.3b", 1560, 6.74), ("wan-1.3b", 1024, 3.82), ("wan-14b", 1560, 49.9), ("wan-14b", 1024, 30.1)],
)
def test_of_wan_s_models_it_is_what_the_roofline_needs(name: str, tokens: int, teraflops: float) -> None:
    """Per latent frame and step at 832x480 and 512x512, with a window of 6."""
    dit = DiTGeometry.from_settings(PRESETS[name].settings["dit"])
    assert dit_flops(dit, tokens, 6 * tokens) / 1e12 == pytest.approx(teraflops, rel=0.01)


def taehv() -> Codec:
    return TaehvCodec(Taehv(TaehvGeometry()), TaehvGeometry())


def wan() -> Codec:
    geometry = WanVaeGeometry()
    return WanCodec(AutoencoderKLWan(**geometry.config()).eval(), geometry)


def tiny() -> Codec:
    geometry = AutoencoderGeometry(**PRESETS["tiny"].settings["autoencoder"])
    return TinyCodec(StreamingAutoencoder(geometry).eval())


@pytest.mark.parametrize(
    ("settings", "made"),
    [
        ({"codec": "taehv"}, taehv),
        ({"codec": "wan"}, wan),
        ({"codec": "paired"}, lambda: PairedCodec(wan(), taehv())),
        (PRESETS["tiny"].settings, tiny),
    ],
    ids=["taehv", "wan", "paired", "tiny"],
)
def test_codecs_compute_what_is_written_down(settings: dict[str, Any], made: Callable[[], Codec]) -> None:
    codec, width, height = made(), 96, 64
    state = codec.open()
    with torch.inference_mode():
        codec.decode([state], codec.encode([state], torch.zeros(1, 1, 3, height, width)))
        with FlopCounterMode(display=False) as encoding:
            latent = codec.encode([state], torch.zeros(1, 4, 3, height, width))
        with FlopCounterMode(display=False) as decoding:
            codec.decode([state], latent)
    counted = codec_flops(settings, width, height)
    assert counted.encode == pytest.approx(encoding.get_total_flops(), rel=0.01)
    assert counted.decode == pytest.approx(decoding.get_total_flops(), rel=0.01)


def test_a_codec_that_cannot_be_run_has_no_cost() -> None:
    with pytest.raises(PresetError, match="codec is taehv, paired or wan"):
        codec_flops({"codec": "vae"}, 64, 64)
