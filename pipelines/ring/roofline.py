"""How fast a GPU is that nobody has measured: an estimate from what its maker says of it.

    seconds = operations / (what it computes at most x the share of it that is reached),  or the time to read the
    weights and the cache once, or to launch the work, where that is longer

The shares are what StreamDiffusionV2 reached on an H100 (arXiv 2511.07399, frames a second at 1 to 4 steps: what one
more step adds is the DiT's, what remains Wan's VAE's): 34 % with 14B, 22 % with 1.3B, 11 to 13 % in the VAE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.causal_wan.flops import codec_flops, dit_flops
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry
from pipelines.causal_wan.memory import HALF, SPACE, dit_parameters
from pipelines.ring.replica import Device
from streamgen.core import Params

DIT_SHARE = 0.34
CODEC_SHARE = 0.12

BLOCK_LEAST_S = 0.2e-3
"""Thirty kernels, launched one by one: an assumption."""
CODEC_LEAST_S = 2e-3
"""The same of either half of a codec."""
LINK_BYTES_PER_S = 20e9
"""From one GPU to another over PCIe 4; NVLink is faster."""
HOP_LEAST_S = 0.1e-3


@dataclass(frozen=True, slots=True)
class Chip:
    """A GPU as its maker describes it."""

    name: str
    """What nvidia-smi's name of it contains."""
    gigabytes: int
    teraflops: float
    """bfloat16 with sums in float32, without sparsity."""
    gigabytes_per_s: float


CHIPS = (
    Chip("B200", 180, 2250, 7700),
    Chip("H200", 141, 989, 4800),
    Chip("GH200", 96, 989, 4000),
    Chip("H100", 80, 989, 3350),
    Chip("H100 PCIe", 80, 756, 2000),
    Chip("A100", 80, 312, 1935),
    Chip("L40S", 48, 362, 864),
    Chip("L40", 48, 181, 864),
    Chip("A40", 48, 150, 696),
    Chip("RTX 6000 Ada", 48, 364, 960),
    Chip("RTX A6000", 48, 155, 768),
    Chip("RTX 5090", 32, 210, 1792),
    Chip("RTX 4090", 24, 165, 1008),
    Chip("RTX 3090", 24, 71, 936),
    Chip("A10", 24, 125, 600),
    Chip("A10G", 24, 70, 600),
    Chip("L4", 24, 121, 300),
)


def chip_of(name: str) -> Chip | None:
    """The chip that a device's name speaks of."""
    found = [chip for chip in CHIPS if re.search(_pattern(chip), name, re.IGNORECASE)]
    return max(found, key=lambda chip: len(chip.name), default=None)


def slowest_with(memory_bytes: int) -> Chip:
    """What a GPU of unknown kind is taken for: the slowest that has as much memory, or else the largest."""
    enough = [chip for chip in CHIPS if chip.gigabytes * 1e9 >= memory_bytes]
    return min(enough, key=lambda chip: chip.teraflops, default=CHIPS[0])


def estimate(name: str, memory_bytes: int, chip: Chip, settings: Mapping[str, Any], params: Params) -> Device:
    """A device like `chip`, with the preset of these settings at the size of `params`. Raises PresetError."""
    dit, cache = DiTGeometry.from_settings(settings["dit"]), CacheGeometry(**settings["cache"])
    tokens = params.width * params.height // (SPACE * dit.patch[1] * SPACE * dit.patch[2])
    keys = cache.window * tokens
    computing_s = dit_flops(dit, tokens, keys) / (DIT_SHARE * chip.teraflops * 1e12)
    read = HALF * (dit_parameters(dit) + 2 * dit.layers * keys * dit.dim)
    codec = codec_flops(settings, params.width, params.height)
    codec_per_s = CODEC_SHARE * chip.teraflops * 1e12
    return Device(
        name,
        memory_bytes,
        row_s=max(computing_s, read / (chip.gigabytes_per_s * 1e9), dit.layers * BLOCK_LEAST_S),
        encode_s=max(codec.encode / codec_per_s, CODEC_LEAST_S),
        decode_s=max(codec.decode / codec_per_s, CODEC_LEAST_S),
        hop_s=HOP_LEAST_S + HALF * tokens * dit.dim / LINK_BYTES_PER_S,
        estimated=True,
    )


def _pattern(chip: Chip) -> str:
    words = chip.name.replace(" ", "[ -]?")
    return rf"(?<![A-Za-z0-9]){words}(?![A-Za-z0-9])"
