"""How well a tiny preset restyles: its codec alone, its styles against their targets, its steadiness, its drift."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.causal_wan.parts import Codec
from pipelines.streaming import sequential
from pipelines.training.metrics import (
    Frames,
    colour_and_contrast,
    distance,
    flows,
    gradient_energy,
    psnr,
    ssim,
    warp_error,
)
from pipelines.training.prompts import MEANINGS
from pipelines.training.scenes import Scenery
from pipelines.training.styles import STYLES
from streamgen.core import Params, Pipeline

UNSEEN = 90_000
"""Seeds of clips from here on; training counts from 0."""
STEPS = (1, 2, 4)


@dataclass(frozen=True)
class Clip:
    """Footage that was not trained on."""

    name: str
    frames: Frames


def generated_clips(count: int, frames: int, width: int, height: int) -> list[Clip]:
    """Clips of the scenery that training used, under camera motion that it did not."""
    scenery = Scenery()
    return [
        Clip(f"generated-{i}", scenery.clip(np.random.default_rng((UNSEEN, i)), frames, width, height))
        for i in range(count)
    ]


@torch.inference_mode()
def codec_quality(codec: Codec, clip: Clip) -> dict[str, float]:
    """PSNR of a clip coded and decoded, and its gradient energy as a share of the source's."""
    state, decoded = codec.open(), []
    for chunk in _chunks(clip.frames):
        frames = torch.from_numpy(chunk).permute(0, 3, 1, 2).float()[None] / 127.5 - 1.0
        pictures = codec.decode([state], codec.encode([state], frames))[0].float()
        decoded.append((pictures * 127.5 + 128.0).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    result = np.concatenate(decoded)
    energy = gradient_energy(result) / gradient_energy(clip.frames)
    return {"psnr_db": psnr(result, clip.frames), "gradient_energy": energy}


def restyled(pipeline: Pipeline[Any], frames: Frames, params: Params) -> Frames:
    """A clip through the pipeline, chunk by chunk."""
    state = pipeline.open(params)
    try:
        return np.concatenate([sequential(pipeline, [(state, chunk)])[0] for chunk in _chunks(frames)])
    finally:
        pipeline.close(state)


def style_quality(
    pipeline: Pipeline[Any], clip: Clip, base: Params, tell: Callable[[str], None] = lambda _: None
) -> dict[str, dict[str, float]]:
    """Of each style: SSIM to its own target at 1, 2 and 4 steps, its and its target's warp error, RMS distance between
    two seeds, and to the nearest other style."""
    motion = flows(clip.frames)
    results: dict[str, Frames] = {}
    table: dict[str, dict[str, float]] = {}
    for style, target_of in STYLES.items():
        tell(f"{clip.name} {style}")
        target = np.stack([target_of(frame) for frame in clip.frames])
        params = base.updated({"prompt": MEANINGS[style][0]})
        by_steps = {n: restyled(pipeline, clip.frames, params.updated({"steps": n})) for n in STEPS}
        results[style] = by_steps[base.steps]
        other_seed = restyled(pipeline, clip.frames, params.updated({"seed": base.seed + 1}))
        table[style] = {
            **{f"ssim_{n}": ssim(result, target) for n, result in by_steps.items()},
            "warp_error": warp_error(results[style], motion),
            "target_warp_error": warp_error(target, motion),
            "seed_distance": distance(results[style], other_seed),
        }
    for style, row in table.items():
        row["style_distance"] = min(distance(results[style], results[other]) for other in table if other != style)
    return table


def summary(codec: Mapping[str, Mapping[str, float]], styles: Mapping[str, Mapping[str, Mapping[str, float]]],
            steps: int) -> dict[str, float]:  # fmt: skip
    """The figures that are aimed at. codec: by clip; styles: by clip and style."""
    names = list(next(iter(styles.values())))

    def mean(style: str, what: str) -> float:
        return float(np.mean([clip[style][what] for clip in styles.values()]))

    per_style = {name: mean(name, f"ssim_{steps}") for name in names}
    seeds = float(np.mean([mean(name, "seed_distance") for name in names]))
    return {
        "psnr_db": min(clip["psnr_db"] for clip in codec.values()),
        "gradient_energy": min(clip["gradient_energy"] for clip in codec.values()),
        "ssim_mean": float(np.mean(list(per_style.values()))),
        "ssim_worst": min(per_style.values()),
        **{f"ssim_mean_{n}_step": float(np.mean([mean(name, f"ssim_{n}") for name in names])) for n in STEPS},
        "style_to_seed_distance": min(mean(name, "style_distance") for name in names) / max(seeds, 1e-6),
        "warp_ratio": max(mean(name, "warp_error") / max(mean(name, "target_warp_error"), 1e-6) for name in names),
    }


def drift(
    pipeline: Pipeline[Any], clip: Clip, params: Params, chunks: int, tell: Callable[[], object] = lambda: None
) -> float:
    """The largest change, in parts of the first value, of mean colour or contrast between the first showing of a clip
    and the last, where it is played to and fro for so many chunks. Raises ValueError where these are too few."""
    length = len(clip.frames)
    period = max(2 * length - 2, 1)
    state = pipeline.open(params)
    spec = pipeline.spec
    shown: deque[Frames] = deque(maxlen=2 * period)
    first: tuple[float, ...] | None = None
    at = 0
    try:
        for chunk in range(chunks):
            count = spec.frames_wanted(chunk == 0)
            indices = [min(i % period, period - i % period) for i in range(at, at + count)]
            at += count
            shown.extend(sequential(pipeline, [(state, clip.frames[indices])])[0])
            if first is None and len(shown) == shown.maxlen:
                first = colour_and_contrast(np.stack(shown))
            tell()
        last = colour_and_contrast(np.stack(shown))
    finally:
        pipeline.close(state)
    if first is None:
        raise ValueError(f"{chunks} chunks do not show a clip of {length} frames twice")
    return max(abs(b - a) / max(a, 1.0) for a, b in zip(first, last, strict=True))


def _chunks(frames: Frames) -> Iterator[Frames]:
    """The first frame, then four at a time, for as many as there are whole."""
    yield frames[:1]
    for start in range(1, len(frames) - 3, 4):
        yield frames[start : start + 4]
