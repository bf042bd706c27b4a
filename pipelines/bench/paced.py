"""Models whose work takes a programmed time, so that a few cores can stand for many devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipelines.causal_wan.dit import Cache, CausalWanModel, TextContext
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.parts import Codec, Half


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that work is made to take."""

    block_s: float = 0.0
    """A block, for each row."""
    call_s: float = 0.0
    """A block, for each pass."""
    encode_s: float = 0.0
    """A chunk."""
    decode_s: float = 0.0
    """A chunk."""


class PacedModel(CausalWanModel):
    """A DiT whose blocks take as long as they are told to, or longer where they cannot help it."""

    def __init__(self, geometry: DiTGeometry, pace: Pace, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(geometry)
        self._pace, self._sleep = pace, sleep

    def through(
        self, layers: Sequence[int], x: Tensor, modulation: Tensor, context: TextContext, cache: Cache
    ) -> Tensor:
        """As CausalWanModel.through."""
        with _taking(len(layers) * (self._pace.call_s + self._pace.block_s * len(x)), self._sleep):
            return super().through(layers, x, modulation, context, cache)


class PacedCodec:
    """A codec (parts.Codec) that takes as long as it is told to."""

    def __init__(self, codec: Codec, pace: Pace, sleep: Callable[[float], None] = time.sleep) -> None:
        self._codec, self._pace, self._sleep = codec, pace, sleep

    @property
    def latent_channels(self) -> int:
        return self._codec.latent_channels

    def open(self) -> Any:
        return self._codec.open()

    def encode(self, states: Sequence[Any], frames: Tensor) -> Tensor:
        with _taking(self._pace.encode_s * len(states), self._sleep):
            return self._codec.encode(states, frames)

    def decode(self, states: Sequence[Any], latents: Tensor) -> Tensor:
        with _taking(self._pace.decode_s * len(states), self._sleep):
            return self._codec.decode(states, latents)

    def part_with(self, half: Half) -> None:
        self._codec.part_with(half)


@contextmanager
def _taking(seconds: float, sleep: Callable[[float], None]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    left = seconds - (time.perf_counter() - began)
    if left > 0:
        sleep(left)
