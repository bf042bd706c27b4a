"""What the first rank tells the others. Each rank carries its operations out in the order in which they were told.

Take, GiveBack, Copy        slots of the KV caches, numbered alike on all ranks
Drop                        the caches of a size
Context, Forget             what the DiT is told of prompts
Rows                        a pass: from rank to rank, then the prediction back to the first
Decode, CloseDecoder        on the last rank
Move                        a block from a rank to its neighbour, with its weights and what caches hold of it
Stop
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of tokens of a latent frame: each has its caches."""


@dataclass(frozen=True, slots=True)
class Take:
    """A clean slot."""

    grid: Grid
    slot: int


@dataclass(frozen=True, slots=True)
class GiveBack:
    """A slot that is not needed any more."""

    grid: Grid
    slot: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Slot `to` holds what `slot` holds."""

    grid: Grid
    slot: int
    to: int


@dataclass(frozen=True, slots=True)
class Drop:
    """No stream has pictures of this size any more."""

    grid: Grid


@dataclass(frozen=True, slots=True)
class Context:
    """A prompt, embedded (1, tokens, dim), with its tokens' weights (1, 1, 1, tokens), or None: both on the CPU."""

    context: int
    embedded: Tensor
    weights: Tensor | None


@dataclass(frozen=True, slots=True)
class Forget:
    """A prompt that no row will need any more."""

    context: int


@dataclass(frozen=True, slots=True)
class Final:
    """A row's last step: the last rank makes pictures of it at once."""

    sigma: float
    """With which the clean latent is taken out of the prediction."""
    strength: float
    """How much of that is shown, 0..1; the rest is the source."""
    vae: str
    leading: bool
    """It is the stream's first chunk, which stands for one frame; else for four."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A pass. What goes from rank to rank is (rows, frames * tokens + SIDE, dim): tokens, then what `packing` adds."""

    grid: Grid
    frames: int
    """Latent frames of a row."""
    slots: tuple[int, ...]
    again: tuple[bool, ...]
    contexts: tuple[int, ...]
    streams: tuple[int, ...]
    finals: tuple[Final | None, ...]
    """For each row. Of those that are final the first rank sends (2, rows, C, frames, h, w) to the last: latents and
    conditions; and gets pictures of each by itself, behind the predictions of all."""


@dataclass(frozen=True, slots=True)
class Decode:
    """Latents (rows, C, 1, h, w) of streams of one codec, all of which begin, or none."""

    streams: tuple[int, ...]
    vae: str
    shape: tuple[int, ...]
    """Of the latents."""
    frames: int
    """Of each stream: one where they begin, else four."""


@dataclass(frozen=True, slots=True)
class CloseDecoder:
    """A stream is over."""

    stream: int


@dataclass(frozen=True, slots=True)
class Move:
    """Block `layer` goes from rank `source` to its neighbour `target`."""

    layer: int
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The end."""


Operation = Take | GiveBack | Copy | Drop | Context | Forget | Rows | Decode | CloseDecoder | Move | Stop


@dataclass(frozen=True, slots=True)
class Report:
    """What a rank did since its last report."""

    rank: int
    seconds: dict[str, float]
    """By what was done: "blocks", "beside" (in passes, but for blocks), "encode", "decode"."""
    amounts: dict[str, int]
    """How much of it: blocks times rows, rows, chunks, chunks."""
    passes: dict[int, tuple[int, float]]
    """By rows: how many passes, and their seconds in blocks."""
    failures: dict[int, str]
    """Streams whose rows could not be computed, and why."""
