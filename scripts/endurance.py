#!/usr/bin/env python
"""Thousands of chunks through the diffusion core at a small geometry: nothing may drift, grow or break.

    python scripts/endurance.py                    5,000 chunks under each set of rules, a few minutes on one core
    python scripts/endurance.py --chunks 100000    a day of live video

Exits with 1 where the latents' statistics moved, a number is not finite, or the process grew.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from pipelines.bench.endurance import RULES, Run, endure
from streamgen.bench.machine import write_report


def main() -> int:
    args = _parser().parse_args()
    runs: dict[str, Run] = {}
    for name in args.rules:
        with tqdm(total=args.chunks, desc=name, unit="chunk", disable=None) as bar:
            runs[name] = endure(RULES[name], args.chunks, args.part, lambda _, bar=bar: bar.update())  # type: ignore[misc]
        print(_line(name, runs[name]))
    if args.json is not None:
        command = shlex.join(["endurance", "--chunks", str(args.chunks), "--part", str(args.part)])
        write_report(args.json, command, ("torch", "numpy"), {name: run.as_dict() for name, run in runs.items()})
    faults = [f"{name}: {fault}" for name, run in runs.items() for fault in run.faults()]
    for fault in faults:
        sys.stderr.write(f"endurance: {fault}\n")
    return 1 if faults else 0


def _line(name: str, run: Run) -> str:
    parts = [
        f"{label} mean {part.mean:+.4f} spread {part.std:.4f} largest {part.largest:.2f}"
        for label, part in (("first", run.first), ("last", run.last))
    ]
    memory = "" if run.warm_mib is None else f"; {run.warm_mib:.1f} -> {run.end_mib:.1f} MiB"
    return f"{name}: {run.chunks} chunks, {run.ms_per_chunk:.1f} ms each; {'; '.join(parts)}{memory}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=5000, metavar="N", help="(default 5000)")
    parser.add_argument("--part", type=int, default=500, metavar="N", help="first and last to compare (default 500)")
    parser.add_argument("--rules", nargs="+", choices=tuple(RULES), default=list(RULES), help="(default all)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
