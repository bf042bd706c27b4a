"""One case, measured: our side and, where it is there, the published one, each in every number format asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.bench.case import Case
from pipelines.bench.flops import Peak
from pipelines.bench.memory import MIB, StreamMemory, peak_resident, stream_memory
from pipelines.bench.random_weights import random_frames
from pipelines.bench.report import short
from pipelines.bench.side import STAGES, Side
from pipelines.bench.stopwatch import Laps, Patience, elapsed, interleaved
from pipelines.causal_wan.flops import dit_flops
from pipelines.causal_wan.geometry import CHUNK
from streamgen.core import Pixels

FIRST = 5
_CLIP_CHUNKS = 4


@dataclass(frozen=True)
class Contender:
    """A side, and the bytes of its weights."""

    side: Side
    weights: int

    @property
    def format(self) -> str:
        return format_name(self.side.dtype)

    @property
    def key(self) -> str:
        return f"{self.side.name} {self.format}"


@dataclass(frozen=True)
class Taken:
    """What one contender took: times in ms."""

    chunk: float
    stages: Mapping[str, float]
    first: float
    memory: StreamMemory | None

    def ms(self, what: str, passes: int) -> float:
        if what == "chunk":
            return self.chunk
        return self.stages["denoise"] / passes if what == "dit" else self.stages[what]


def format_name(dtype: torch.dtype) -> str:
    """As reports call it."""
    return str(dtype).removeprefix("torch.")


@torch.inference_mode()
def measured(
    case: Case, contenders: Sequence[Contender], device: torch.device, patience: Patience, peak: Peak
) -> dict[str, Any]:
    """The report's entry of a case."""
    dtypes = {it.side.dtype for it in contenders}
    for dtype in dtypes:
        peak.look(dtype)
    frames = _endless(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the published package warns of what it falls back to
        difference = _differences(case, contenders, device)
        taken = _taken(case, contenders, device, patience, frames)
    flops = _flops(case, next(it.side for it in contenders if it.side.name == "ours"), frames)
    for it in contenders:
        it.side.forget()
    for dtype in dtypes:
        peak.look(dtype)
    entry = _entry(case, contenders, taken, flops, peak)
    if difference:
        entry["difference"] = difference
    return entry


def _taken(
    case: Case, contenders: Sequence[Contender], device: torch.device, patience: Patience, frames: Iterator[Pixels]
) -> dict[str, Taken]:
    first, memory = {}, {}
    opening = random_frames(FIRST, case.height, case.width).numpy()
    for it in contenders:
        it.side.begin(opening)  # what is only ever slow once
        it.side.forget()

        def fill(side: Side = it.side, key: str = it.key) -> None:
            first[key] = elapsed(lambda: side.begin(opening), device)
            for _ in range(case.model.cache.window):
                side.chunk(next(frames))

        def work(side: Side = it.side) -> None:
            side.chunk(next(frames))

        memory[it.key] = stream_memory(fill, work, device)
    runs: dict[str, Callable[[], object]] = {it.key: _chunk(it.side, frames) for it in contenders}
    chunks = interleaved(runs, device, patience)
    laps = {it.key: Laps(device) for it in contenders}
    interleaved({it.key: _timed_chunk(it.side, frames, laps[it.key]) for it in contenders}, device, patience)
    return {it.key: Taken(chunks[it.key], laps[it.key].medians(), first[it.key], memory[it.key]) for it in contenders}


def _chunk(side: Side, frames: Iterator[Pixels]) -> Callable[[], object]:
    return lambda: side.chunk(next(frames))


def _timed_chunk(side: Side, frames: Iterator[Pixels], laps: Laps) -> Callable[[], object]:
    def run() -> None:
        chunk = next(frames)
        laps.start()
        side.chunk(chunk, laps)

    return run


def _flops(case: Case, side: Side, frames: Iterator[Pixels]) -> dict[str, int]:
    """What our side computes in each stage; of the DiT by arithmetic, as not every attention kernel can be counted."""
    with FlopCounterMode(display=False) as counter:
        ends = [0]
        side.chunk(next(frames), lambda stage: ends.append(int(counter.get_total_flops())))
    found = {stage: after - before for stage, before, after in zip(STAGES, ends, ends[1:], strict=False)}
    found["dit"] = dit_flops(case.model.dit, case.tokens, case.model.cache.window * case.tokens, case.rows)
    found["chunk"] = found["encode"] + found["decode"] + found["dit"] * _passes(case)
    return found


def _differences(case: Case, contenders: Sequence[Contender], device: torch.device) -> dict[str, float]:
    """Largest difference of the sides' results of a step, over the largest result, once the window is full."""
    formats: dict[str, list[Side]] = {}
    for it in contenders:
        formats.setdefault(it.format, []).append(it.side)
    found = {}
    for name, sides in formats.items():
        if len(sides) == 2:
            found[name] = _difference(case, sides, device)
        for side in sides:
            side.forget()
    return found


def _difference(case: Case, sides: list[Side], device: torch.device) -> float:
    shape = (1, case.model.dit.latent_channels, 1, case.height // 8, case.width // 8)
    generator = torch.Generator().manual_seed(2)
    worst = 0.0
    for _ in range(case.model.cache.window + 2):
        latent = torch.randn(shape, generator=generator).to(device, sides[0].dtype)
        ours, theirs = (side.step(latent).float() for side in sides)
        worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max()))
    return worst


def _entry(
    case: Case, contenders: Sequence[Contender], taken: Mapping[str, Taken], flops: Mapping[str, int],
    peak: Peak,
) -> dict[str, Any]:  # fmt: skip
    best = {}
    for it in sorted(contenders, key=lambda it: taken[it.key].chunk, reverse=True):
        best[it.side.name] = it
    ours, theirs = best["ours"], best.get("published")
    entry: dict[str, Any] = {"dtype": ours.format, "reference_dtype": theirs.format if theirs else None}
    passes, most = _passes(case), peak.of(ours.side.dtype)
    for what in ("dit", "encode", "decode", "chunk"):
        ms = taken[ours.key].ms(what, passes)
        entry[what] = {"ms": short(ms), "flops_share": short(1e3 * flops[what] / ms / most)}
        entry[what] |= _compared(ms, taken[theirs.key].ms(what, passes)) if theirs else {}
    entry["fps"] = short(1e3 * CHUNK / taken[ours.key].chunk)
    entry["ttff_ms"] = short(taken[ours.key].first)
    entry |= {"peak_tflops": short(most / 1e12), "chunk_tflop": short(flops["chunk"] / 1e12)}
    entry |= _memory("", ours, taken[ours.key].memory)
    if theirs:
        entry["reference_fps"] = short(1e3 * CHUNK / taken[theirs.key].chunk)
        entry["reference_ttff_ms"] = short(taken[theirs.key].first)
        entry |= _memory("reference_", theirs, taken[theirs.key].memory)
    entry["process_peak_mib"] = round(peak_resident() / MIB)
    entry["by_dtype"] = {
        it.key: {what: short(taken[it.key].ms(what, passes)) for what in ("dit", "encode", "decode", "chunk")}
        for it in contenders
    }
    return entry


def _compared(ms: float, reference: float) -> dict[str, float]:
    return {"reference_ms": short(reference), "ratio": short(reference / ms)}


def _memory(prefix: str, it: Contender, memory: StreamMemory | None) -> dict[str, int]:
    found = {f"{prefix}weights_mib": round(it.weights / MIB)}
    if memory is not None:
        found[f"{prefix}stream_mib"] = round(memory.held / MIB)
        found[f"{prefix}memory_mib"] = round((it.weights + memory.held + memory.passing) / MIB)
    return found


def _passes(case: Case) -> int:
    """Of the DiT for each chunk."""
    return 1 if case.denoising == "batch" else case.steps


def _endless(case: Case) -> Iterator[Pixels]:
    """Chunks (4, H, W, 3) without end."""
    clip = random_frames(CHUNK * _CLIP_CHUNKS, case.height, case.width).numpy()
    return (clip[CHUNK * (i % _CLIP_CHUNKS) :][:CHUNK] for i in count())
