"""Sizes and rules of a causal Wan DiT. They come from the preset's file; the code is the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

CHUNK = 4
"""Frames that a latent frame stands for, except the first of a stream, which stands for one."""

TIMESTEPS = 1000
"""What a DiT is told as the noise level 1; also the number of levels in a schedule's table."""

Prediction = Literal["flow", "x0", "residual"]
"""What the DiT's output is: noise - clean (Wan), the clean latent, or the clean latent - the condition."""


@dataclass(frozen=True)
class DiTGeometry:
    """Wan2.1's 1.3B: dim 1536, ffn 8960, 12 heads, 30 layers, 16 latent channels, text 512 x 4096, flow prediction."""

    latent_channels: int
    cond_channels: int
    """Channels of the clean source latent beside the noised one; 0 for plain video to video."""
    patch: tuple[int, int, int]
    """Latent frames, rows and columns of a token."""
    dim: int
    ffn_dim: int
    heads: int
    layers: int
    freq_dim: int
    text_dim: int
    text_len: int
    prediction: Prediction
    eps: float = 1e-6

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> DiTGeometry:
        return cls(**{**settings, "patch": tuple(settings["patch"])})

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def rope_pairs(self) -> tuple[int, int, int]:
        """Rotated pairs of a head for time, rows and columns (Wan: rows and columns a third each, time the rest)."""
        third = self.head_dim // 6
        return self.head_dim // 2 - 2 * third, third, third


SinkRule = Literal["copy", "move"]
"""How a sink is replaced by a latent frame that it no longer resembles.

copy: every unlike sink becomes a copy of the frame, which has its place in the ring as well;
move: the least alike sink gives its place to the frame, which then takes none in the ring (StreamDiffusionV2's code).
"""
SinkPositions = Literal["held", "absolute"]
"""Where a sink stands in time. held: never further away than the window is long; absolute: where it was first, for ever
further away (StreamDiffusionV2's code, until it restarts its positions)."""
StepMemory = Literal["own", "last", "first"]
"""Whose keys the steps of later latent frames attend to.

own: each step those of the same step, in a cache of its own, so that steps of different frames run in one pass;
last: one cache for all steps, which must then run one after the other, and remembers those of the last step;
first: the same, but remembers those of the first step (StreamDiffusionV2's code without stream batch).
"""
StreamStart = Literal["own", "last"]
"""What the caches of the steps hold of a stream's first latent frames. own: the keys of their own step;
last: all of them those of the last step, for which the first frames run through all steps at once
(StreamDiffusionV2's code)."""


@dataclass(frozen=True)
class CacheGeometry:
    """The rolling KV cache: its size in latent frames, and its rules. The defaults are those of the tiny preset."""

    window: int
    """Latent frames attended to, the current one and the sinks among them."""
    sinks: int
    """Of these, how many are kept from the start of the scene."""
    sink_threshold: float
    """A sink less similar than this (cosine) to the current frame is replaced by it; -1: never."""
    sink_rule: SinkRule = "copy"
    sink_positions: SinkPositions = "held"
    memory: StepMemory = "own"
    start: StreamStart = "own"

    def __post_init__(self) -> None:
        if not 0 <= self.sinks < self.window:
            raise ValueError(f"{self.sinks} sinks do not fit a window of {self.window} latent frames")
        for name, value, allowed in (
            ("sink_rule", self.sink_rule, get_args(SinkRule)),
            ("sink_positions", self.sink_positions, get_args(SinkPositions)),
            ("memory", self.memory, get_args(StepMemory)),
            ("start", self.start, get_args(StreamStart)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
        if self.sink_rule == "copy" and (self.sink_positions == "absolute" or self.memory == "first"):
            raise ValueError("sink_positions absolute and memory first need sink_rule move")

    @property
    def adaptive(self) -> bool:
        """Whether sinks are ever replaced."""
        return self.sinks > 0 and self.sink_threshold > -1.0

    @property
    def held(self) -> bool:
        """Whether there are sinks that move with the window."""
        return self.sinks > 0 and self.sink_positions == "held"

    def slots(self, steps: int) -> int:
        """Slots that a stream of so many steps needs."""
        return steps if self.memory == "own" else 1

    def slot_bytes(self, dit: DiTGeometry, tokens: int, itemsize: int) -> int:
        """Device memory of a slot, for latent frames of so many tokens and numbers of `itemsize` bytes."""
        entries = self.sinks + 1
        pool = 2 * self.window * tokens * dit.dim * itemsize
        turning = entries * tokens * dit.heads * 2 * dit.rope_pairs[0] * itemsize if self.held else 0
        means = entries * 2 * dit.dim * 4 if self.adaptive else 0
        indices = 8 * (entries + 2)
        return dit.layers * (pool + turning + means + indices)


@dataclass(frozen=True)
class SamplerGeometry:
    """How noise levels follow one another. The defaults are those of the tiny preset."""

    schedule: Literal["proportional", "list"] = "proportional"
    """proportional: equal parts from the chunk's noise level to 0; list: the levels below, after the chunk's own."""
    steps: tuple[int, ...] = ()
    """Timesteps (of 1000) of a list; of n steps the first n. StreamDiffusionV2: 700, 500, 400, 200."""
    shift: float = 8.0
    """Of the table of 1000 levels in which a list's timesteps are looked up."""
    lag: int = 100
    """Of a list: how many timesteps below its latent's true noise level the first step is run."""
    noise: Literal["kept", "fresh"] = "kept"
    """kept: a stream's noise for a step is the same for every chunk, so that a still scene stays still;
    fresh: each chunk has its own (StreamDiffusionV2)."""

    def __post_init__(self) -> None:
        if self.schedule not in ("proportional", "list"):
            raise ValueError(f"schedule is proportional or list, not {self.schedule!r}")
        if self.noise not in ("kept", "fresh"):
            raise ValueError(f"noise is kept or fresh, not {self.noise!r}")
        if self.schedule == "list":
            falling = list(self.steps) == sorted(set(self.steps), reverse=True)
            if not self.steps or not falling or not 0 < self.steps[-1] <= self.steps[0] <= TIMESTEPS:
                raise ValueError(f"steps are falling numbers from {TIMESTEPS} to 1, not {list(self.steps)}")
        if self.shift <= 0:
            raise ValueError(f"shift is greater than 0, not {self.shift}")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> SamplerGeometry:
        return cls(**{**settings, "steps": tuple(settings.get("steps", ()))})
