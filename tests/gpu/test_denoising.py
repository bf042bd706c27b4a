from __future__ import annotations

import pytest
import torch

from pipelines.causal_wan.compiling import compile_hindrance
from tests.support.gpu_models import BOUNDS, CPU, DTYPES, STAYING, batched, denoiser, difference, opened, sequential
from tests.support.gpu_models import clean as clean_latent

pytestmark = pytest.mark.gpu

CHUNKS = 12


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_stream_gets_the_same_alone_and_beside_three_others(device: torch.device, dtype: torch.dtype) -> None:
    alone = sequential(denoiser(device, dtype), 1, CHUNKS)
    beside = batched(denoiser(device, dtype), [0, 1, 2, 3], CHUNKS)
    assert difference(beside[1], alone) < BOUNDS[dtype]
    assert difference(beside[2], alone) > 0.1  # that the others are others


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", [1, 4])
def test_stream_batch_is_sequential_denoising(device: torch.device, dtype: torch.dtype, steps: int) -> None:
    one_by_one = sequential(denoiser(device, dtype), 0, CHUNKS, steps)
    assert difference(batched(denoiser(device, dtype), [0], CHUNKS, steps)[0], one_by_one) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_second_stream_after_a_first_is_like_a_first(device: torch.device, dtype: torch.dtype) -> None:
    fresh = sequential(denoiser(device, dtype), 1, CHUNKS)
    used = denoiser(device, dtype)
    sequential(used, 0, CHUNKS + 3)
    assert difference(sequential(used, 1, CHUNKS), fresh) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_device_computes_what_the_cpu_computes(device: torch.device, dtype: torch.dtype) -> None:
    expected = sequential(denoiser(CPU, torch.float32, STAYING), 0, CHUNKS)
    assert difference(sequential(denoiser(device, dtype, STAYING), 0, CHUNKS), expected) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_backends_agree(device: torch.device, dtype: torch.dtype) -> None:
    expected = sequential(denoiser(device, dtype, STAYING), 0, CHUNKS)
    other = sequential(denoiser(device, dtype, STAYING, attention="matmul"), 0, CHUNKS)
    assert difference(other, expected) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compiled_blocks_compute_the_same(device: torch.device, dtype: torch.dtype) -> None:
    if hindrance := compile_hindrance(device):
        pytest.skip(hindrance)
    expected = batched(denoiser(device, dtype, STAYING), [0, 1], CHUNKS)
    compiled = batched(denoiser(device, dtype, STAYING, compiled=True), [0, 1], CHUNKS)
    assert max(difference(compiled[i], expected[i]) for i in range(2)) < BOUNDS[dtype]


def test_no_step_waits_for_the_device(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("only CUDA tells")
    made = denoiser(device, torch.bfloat16)
    stream, some = opened(made, 0), next(made[1].parameters())
    latents = [clean_latent(0, chunk, some) for chunk in range(CHUNKS)]
    sequential(made, 1, 8)  # what is only ever done once
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for latent in latents:
            row = made[0].start(stream, latent, 2, 0.8)
            while not row.done:
                (row,) = made[0].step([row])
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_a_stream_holds_no_more_later_than_at_first(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("only CUDA counts")
    made = denoiser(device, torch.bfloat16)
    stream, some = opened(made, 0), next(made[1].parameters())
    held = []
    for chunk in range(200):
        row = made[0].start(stream, clean_latent(0, chunk, some), 2, 0.8)
        while not row.done:
            (row,) = made[0].step([row])
        del row
        held.append(torch.cuda.memory_allocated(device))
    assert max(held[100:]) <= max(held[20:100])
