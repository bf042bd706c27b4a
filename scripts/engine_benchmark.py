#!/usr/bin/env python
"""What the models cost on this machine, with random weights, beside the published package where it is installed.

    python scripts/engine_benchmark.py                                    the small comparison that runs on two cores
    python scripts/engine_benchmark.py --preset wan-1.3b --size 512x512 --steps 1 2 --codec taehv wan
    python scripts/engine_benchmark.py --preset wan-14b --layers 2        a preset's geometry, shrunk

A case is a geometry at a size with so many steps and a codec. Each side runs a stream of its own in turn: medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipelines.bench.arguments import command, size
from pipelines.bench.case import SMALL, WAN, Case, Model
from pipelines.bench.flops import Peak
from pipelines.bench.measure import measured
from pipelines.bench.published import Package, package
from pipelines.bench.report import markdown
from pipelines.bench.stopwatch import Patience
from pipelines.bench.workshop import Workshop, lacking
from pipelines.causal_wan.attention import BACKENDS
from pipelines.causal_wan.compiling import compile_hindrance
from pipelines.causal_wan.device import choose_device
from streamgen.bench.machine import machine, versions
from streamgen.errors import StreamgenError

PACKAGES = ("torch", "diffusers", "numpy", "streamdiffusionv2")
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
GEOMETRY = ("dim", "heads", "layers", "ffn_dim", "text_len", "text_dim")

DONE, FAILED, WRONG_USAGE = 0, 1, 2


def main() -> int:
    args = _parser().parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        device, cases = choose_device(args.device), list(_cases(args))
    except StreamgenError as error:
        sys.stderr.write(f"engine_benchmark: {error}\n")
        return WRONG_USAGE
    if args.compile and (hindrance := compile_hindrance(device)):
        sys.stderr.write(f"engine_benchmark: {hindrance}\n")
        return FAILED
    published = None if args.alone else package()
    if isinstance(published, str):
        sys.stderr.write(f"only ours is measured: {published}\n")
    results = _run(args, device, cases, published if isinstance(published, Package) else None)
    where, what = machine(), versions(PACKAGES)
    table = markdown(results, where, what)
    sys.stdout.write(table)
    report = {
        "command": command("engine_benchmark", ("--json", "--markdown")),
        "machine": where,
        "versions": what,
        "results": results,
    }
    for path, text in ((args.json, json.dumps(report, indent=2) + "\n"), (args.markdown, table)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return DONE if any("skipped" not in entry for entry in results.values()) else FAILED


def _cases(args: argparse.Namespace) -> Iterator[Case]:
    changes = {name: getattr(args, name) for name in GEOMETRY if getattr(args, name) is not None}
    for preset in args.preset or [WAN]:
        model = Model.of_preset(preset, changes if args.preset or changes else SMALL)
        for codec in args.codec:
            for width, height in args.size:
                for steps in args.steps:
                    yield Case(model, width, height, steps, codec, args.denoising)


def _run(
    args: argparse.Namespace, device: torch.device, cases: list[Case], published: Package | None
) -> dict[str, Any]:
    dtypes = _dtypes(args, device)
    peak = Peak(device)
    patience = Patience(least=min(args.rounds, 3), most=args.rounds, seconds=args.patience)
    workshop = Workshop(device, dtypes, published, partial(_attention, args.attention, device), args.compile)
    until = time.monotonic() + args.seconds
    results: dict[str, Any] = {}
    for case in cases:
        name = f"{case.name} compiled" if args.compile else case.name
        late = "no time left for it" if time.monotonic() > until else None
        if missing := lacking(case.codec) or late:
            results[name] = {"skipped": missing}
            continue
        sys.stderr.write(f"{name} ...\n")
        try:
            results[name] = measured(case, workshop.contenders(case), device, patience, peak)
        except torch.cuda.OutOfMemoryError:
            results[name] = {"skipped": "out of memory"}
    return results


def _dtypes(args: argparse.Namespace, device: torch.device) -> list[torch.dtype]:
    if args.dtype != "best":
        return [DTYPES[args.dtype]]
    return [torch.bfloat16] if device.type == "cuda" else list(DTYPES.values())


def _attention(asked: str | None, device: torch.device, dtype: torch.dtype) -> str:
    return asked or ("by_head" if device.type == "cpu" and dtype == torch.bfloat16 else "sdpa")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("cases", "every preset at every size with every codec and number of steps")
    what.add_argument("--preset", nargs="+", help="Wan presets (default: wan-1.3b, shrunk to 8 layers of width 256)")
    for name in GEOMETRY:
        what.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help="instead of the preset's")
    what.add_argument("--size", nargs="+", type=size, default=[(256, 256)], metavar="WxH", help="(default 256x256)")
    what.add_argument("--steps", nargs="+", type=int, choices=(1, 2, 3, 4), default=[2], help="(default 2)")
    what.add_argument("--codec", nargs="+", choices=("taehv", "paired", "wan"), default=["taehv"],
                      help="paired: Wan's encoder, TAEHV's decoder (default taehv)")  # fmt: skip
    what.add_argument("--denoising", choices=("sequential", "batch"), default="sequential", help="(default sequential)")
    how = parser.add_argument_group("how")
    how.add_argument("--alone", action="store_true", help="do not measure the published package")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    how.add_argument("--dtype", choices=("best", *DTYPES), default="best",
                     help="best: each side in the number format that it is fastest in (default)")  # fmt: skip
    how.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU (default: as many as cores)")
    how.add_argument("--attention", choices=tuple(BACKENDS), help="backend of ours")
    how.add_argument("--compile", action="store_true", help="compile the blocks of our DiT")
    how.add_argument("--rounds", type=int, default=15, metavar="N", help="at most, for each figure (default 15)")
    how.add_argument("--patience", type=float, default=6.0, metavar="S", help="for each figure, about (default 6)")
    how.add_argument("--seconds", type=float, default=1e9, metavar="S", help="after which no further case is begun")
    report = parser.add_argument_group("report")
    report.add_argument("--json", type=Path, metavar="FILE")
    report.add_argument("--markdown", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
