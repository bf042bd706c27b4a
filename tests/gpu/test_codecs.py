from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

from pipelines.bench.random_weights import random_like
from pipelines.causal_wan.parts import Codec
from pipelines.causal_wan.taehv import Taehv, TaehvCodec
from pipelines.causal_wan.taehv_geometry import TaehvGeometry
from pipelines.causal_wan.wan_vae_geometry import WanVaeGeometry
from tests.support.gpu_models import BOUNDS, CPU, DTYPES, difference

pytestmark = pytest.mark.gpu

SMALL = TaehvGeometry(decoder_widths=(64, 32, 16, 16), encoder_width=16)
CHUNKS = 4


def taehv(device: torch.device, dtype: torch.dtype) -> Codec:
    return TaehvCodec.from_state_dict(random_like(Taehv(SMALL), CPU, torch.float32), SMALL, device=device, dtype=dtype)


def wan_vae(device: torch.device, dtype: torch.dtype) -> Codec:
    diffusers = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_wan")
    wan = importlib.import_module("pipelines.causal_wan.wan_vae")  # which needs diffusers
    geometry = WanVaeGeometry(base_dim=8)
    tensors = random_like(diffusers.AutoencoderKLWan(**geometry.config()), CPU, torch.float32)
    return wan.WanCodec.from_state_dict(tensors, geometry, device=device, dtype=dtype)


MADE = [pytest.param(taehv, id="taehv"), pytest.param(wan_vae, id="wan")]


def video(number: int) -> Tensor:
    """(1, 1 + 4 n, 3, 32, 48) in -1..1."""
    frames = torch.rand(1, 1 + 4 * (CHUNKS - 1), 3, 32, 48, generator=torch.Generator().manual_seed(number))
    return 2 * frames - 1


def there_and_back(codec: Codec, videos: Tensor, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Latents and pictures of each chunk of several streams; float32, on the CPU."""
    states = [codec.open() for _ in videos]
    results = []
    for chunk in range(CHUNKS):
        frames = videos[:, :1] if chunk == 0 else videos[:, 4 * chunk - 3 : 4 * chunk + 1]
        latents = codec.encode(states, frames.to(device, dtype))
        results += [latents.float().cpu(), codec.decode(states, latents).float().cpu()]
    return results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("made", MADE)
def test_the_device_computes_what_the_cpu_computes(made, device: torch.device, dtype: torch.dtype) -> None:
    expected = there_and_back(made(CPU, torch.float32), video(0), CPU, torch.float32)
    assert difference(there_and_back(made(device, dtype), video(0), device, dtype), expected) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("made", MADE)
def test_streams_in_one_batch_get_what_they_get_alone(made, device: torch.device, dtype: torch.dtype) -> None:
    codec = made(device, dtype)
    together = there_and_back(codec, torch.cat([video(0), video(1)]), device, dtype)
    alone = there_and_back(codec, video(1), device, dtype)
    assert difference([x[1:] for x in together], alone) < BOUNDS[dtype]
