"""The ladder of quality: what a session asked for, and what may run in its place under load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from streamgen.core import Params, PipelineSpec

FPS_SHARES = (0.75, 0.5)
SIZE_SHARES = (0.75, 0.5)

LEAST_FPS = 4.0
"""The frame rate is not lowered below this."""

LEAST_SIDE = 64
"""Nor is a picture's side made shorter than this (pixels)."""


class Quality(NamedTuple):
    """What a session's work is like."""

    steps: int
    fps: float
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    vae: str


def asked(params: Params) -> Quality:
    """Rung 0: what the session asked for."""
    return Quality(params.steps, params.fps, params.width, params.height, params.vae)


def ladder(params: Params, spec: PipelineSpec) -> tuple[Quality, ...]:
    """The rungs that `params` allow, from what was asked for down: fewer steps, then lower fps, size, and VAE.

        2 steps 16 fps 320x192 -> 1 step -> 12 fps -> 8 fps -> 240x144 -> 160x96 -> light VAE

    Each differs from the one before in one thing.
    """
    rungs = [asked(params)]
    for rung in _lowered(params, spec):
        if rung != rungs[-1]:
            rungs.append(rung)
    return tuple(rungs)


def at(params: Params, quality: Quality) -> Params:
    """The session's parameters as they run at a rung."""
    return params.updated(quality._asdict())


def _lowered(params: Params, spec: PipelineSpec) -> Iterator[Quality]:
    now, kept = asked(params), params.kept
    if "steps" not in kept:
        for steps in range(params.steps - 1, 0, -1):
            yield (now := now._replace(steps=steps))
    if "fps" not in kept:
        for share in FPS_SHARES:
            yield (now := now._replace(fps=min(params.fps, max(LEAST_FPS, params.fps * share))))
    if "size" not in kept:
        for share in SIZE_SHARES:
            width, height = (_side(side, share, spec.size_multiple) for side in (params.width, params.height))
            yield (now := now._replace(width=width, height=height))
    if "vae" not in kept and spec.light_vae:
        yield now._replace(vae="light")


def _side(asked_for: int, share: float, multiple: int) -> int:
    least = -(-LEAST_SIDE // multiple) * multiple
    return min(asked_for, max(least, round(asked_for * share / multiple) * multiple))
