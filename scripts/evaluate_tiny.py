#!/usr/bin/env python
"""Measures the tiny preset: its autoencoder, its styles, its steadiness and drift, its speed, memory and size.

    python scripts/evaluate_tiny.py --video clip.mp4 --json report.json     about 20 minutes on 2 cores

Clips were not trained on: those generated here have motion of their own over the photographs of the training. Prints a
table of what is aimed at, and one of the styles. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import pipelines
from pipelines.bench.arguments import command, size
from pipelines.bench.report import short
from pipelines.causal_wan.build import build_tiny_codec
from pipelines.causal_wan.device import choose_device
from pipelines.training.evaluation import STEPS, Clip, codec_quality, drift, generated_clips, style_quality, summary
from pipelines.training.prompts import MEANINGS
from streamgen.bench.machine import machine, versions
from streamgen.core import Params
from streamgen.errors import StreamgenError

PRESET = "tiny"
TARGETS: Mapping[str, tuple[str, float]] = {
    "psnr_db": ("at least", 29.0),
    "gradient_energy": ("at least", 0.8),
    "ssim_mean": ("at least", 0.65),
    "ssim_worst": ("at least", 0.5),
    "style_to_seed_distance": ("at least", 3.0),
    "warp_ratio": ("at most", 1.3),
    "drift": ("at most", 0.05),
    "fps": ("at least", 20.0),
    "memory_mib": ("at most", 1024.0),
    "weights_mb": ("at most", 25.0),
}
"""What is aimed at; of several clips or styles the worst, unless it says mean."""
SPEED = """
import json, resource, statistics, sys, time
import numpy as np
import pipelines
from pipelines.streaming import sequential
pipeline = pipelines.build(sys.argv[1])
p = pipeline.spec.defaults.updated(json.loads(sys.argv[2]))
frames = np.random.default_rng(0).integers(0, 256, (4, p.height, p.width, 3), np.uint8)
state, times = pipeline.open(p), []
for i in range(int(sys.argv[3])):
    began = time.perf_counter()
    sequential(pipeline, [(state, frames[: pipeline.spec.frames_wanted(i == 0)])])
    times.append(time.perf_counter() - began)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"fps": 4 / statistics.median(times[8:]), "memory_mib": peak / 2**20}))
"""
"""Run in a process of its own, so that its memory is the engine's."""


def main() -> int:
    args = _parser().parse_args()
    preset = pipelines.PRESETS[PRESET]
    params = replace(preset.defaults, width=args.size[0], height=args.size[1])
    try:
        choose_device(args.device)  # before minutes have passed
        clips = [
            *(_video(path, args.frames, params) for path in args.video),
            *generated_clips(args.clips, args.frames, params.width, params.height),
        ]
    except StreamgenError as error:
        sys.stderr.write(f"evaluate_tiny: {error}\n")
        return 1
    if not clips:
        sys.stderr.write("evaluate_tiny: no clips; give --video or --clips\n")
        return 2
    results = _measured(args, clips, params)
    _print(results)
    if args.json is not None:
        called, what = command("evaluate_tiny", ("--json",)), versions(("torch", "numpy"))
        report = {"command": called, "machine": machine(), "versions": what, "results": results}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def _measured(args: argparse.Namespace, clips: list[Clip], params: Params) -> dict[str, Any]:
    preset = pipelines.PRESETS[PRESET]
    speed = _speed(params, args.speed_chunks)  # before anything else keeps the cores warm
    codec = build_tiny_codec(preset, torch.device("cpu"), torch.float32)
    by_clip = {clip.name: codec_quality(codec, clip) for clip in clips}
    pipeline = pipelines.build(PRESET, args.device)
    styles = {clip.name: style_quality(pipeline, clip, params, _say) for clip in clips}
    chunks = round(args.drift_minutes * 60 * params.fps / 4)
    with tqdm(total=chunks, desc="drift", unit="chunk", disable=None) as bar:
        drifted = drift(pipeline, replace(clips[0], frames=clips[0].frames[:17]), params, chunks, bar.update)
    sizes = sum(path.stat().st_size for path in preset.folder.glob("*.safetensors"))
    figures = {**summary(by_clip, styles, params.steps), "drift": drifted, **speed, "weights_mb": sizes / 1e6}
    return {
        "figures": {name: short(value) for name, value in figures.items()},
        "targets": {name: {"bound": f"{word} {bound:g}", "met": _met(figures[name], word, bound)}
                    for name, (word, bound) in TARGETS.items()},
        "autoencoder": {clip: {k: short(v) for k, v in row.items()} for clip, row in by_clip.items()},
        "styles": {clip: {style: {k: short(v) for k, v in row.items()} for style, row in table.items()}
                   for clip, table in styles.items()},
    }  # fmt: skip


def _say(what: str) -> None:
    sys.stderr.write(f"{what} ...\n")


def _speed(params: Params, chunks: int) -> dict[str, float]:
    changes = json.dumps({"width": params.width, "height": params.height})
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", SPEED, PRESET, changes, str(chunks)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _video(path: Path, frames: int, params: Params) -> Clip:
    """The first frames of a file, scaled to the preset's size. Raises MediaFileError."""
    from streamgen.mediafile import VideoReader  # noqa: PLC0415  # PyAV is not everywhere; only files need it

    with VideoReader(path) as reader:
        pictures = []
        for picture in reader.pictures(params.width, params.height, on_audio=lambda _: None):
            pictures.append(picture.pixels)
            if len(pictures) == frames:
                break
    return Clip(path.stem, np.stack(pictures[: (len(pictures) - 1) // 4 * 4 + 1]))


def _print(results: Mapping[str, Any]) -> None:
    figures, targets = results["figures"], results["targets"]
    print("| figure | value | aim | |\n|---|---|---|---|")
    for name, value in figures.items():
        aim, met = "", ""
        if name in targets:
            aim, met = targets[name]["bound"], "met" if targets[name]["met"] else "missed"
        print(f"| {name} | {value:g} | {aim} | {met} |")
    print(
        "\n| style | "
        + " | ".join(f"SSIM, {n} steps" for n in STEPS)
        + " | warp error | its target's | seeds | nearest style |"
    )
    print("|---" * (len(STEPS) + 5) + "|")
    for style in MEANINGS:
        rows = [table[style] for table in results["styles"].values()]
        names = [*(f"ssim_{n}" for n in STEPS), "warp_error", "target_warp_error", "seed_distance", "style_distance"]
        means = [f"{np.mean([row[name] for row in rows]):.2f}" for name in names]
        print(f"| {style} | " + " | ".join(means) + " |")


def _met(value: float, word: str, bound: float) -> bool:
    return bool(value >= bound if word == "at least" else value <= bound)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--video", type=Path, action="append", default=[], metavar="FILE", help="footage; may be repeated"
    )
    parser.add_argument("--clips", type=int, default=3, metavar="N", help="generated clips (default 3)")
    parser.add_argument("--frames", type=int, default=33, metavar="N", help="of each clip (default 33)")
    parser.add_argument("--size", type=size, default=(320, 192), metavar="WxH", help="(default 320x192)")
    parser.add_argument("--drift-minutes", type=float, default=10.0, metavar="M", help="(default 10)")
    parser.add_argument("--speed-chunks", type=int, default=60, metavar="N", help="(default 60)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
