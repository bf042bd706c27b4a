#!/usr/bin/env python
"""A ring over many devices: throughput and latency by its number of stages, in the order of rows and in the paper's.

    python scripts/ring_benchmark.py                          1, 2, 4 and 8 stages, 1, 2 and 4 steps
    python scripts/ring_benchmark.py --stages 1 4 --steps 2 --chunks 16 --json ring.json --html ring.html

The ring is the real one: a process for each stage, tensors between them by gloo. What its blocks take is programmed
(--block-ms), so that two cores can stand for eight devices: ranks sleep most of the time. Side by side, in one run:

    one device     no ring: the same models in one process, one chunk after the other
    paper          StreamDiffusionV2's ring: all steps of the stream batch as one batch of rows
    even           our order, row by row, blocks evenly spread
    ours           the same with the block scheduler

Then the block scheduler alone: one rank takes three times as long for a block, first with the even split, then with
blocks that move, in the same ring; and a ring whose first rank encodes and whose last decodes for a programmed time.
Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pipelines.bench.arguments import command
from pipelines.bench.paced import Pace
from pipelines.bench.ring import RingCase, RingOutcome, flow, measure, ring
from pipelines.ring.split import Cost, best, even
from streamgen.bench.machine import write_report
from streamgen.simulation import plot

LAYERS = 40
"""Wan's 14B has so many."""

ORDERS = {
    "paper": {"balanced": False, "stream_batch": True},
    "even": {"balanced": False},
    "ours": {},
}

SLOW = 3


class Line(NamedTuple):
    """One ring beside one device."""

    order: str
    stages: int
    steps: int
    outcome: RingOutcome
    ratio: float
    """Throughput, in that of one device."""
    lateness: float
    """Latency of a chunk, in steps times what a row takes once round."""

    @property
    def words(self) -> str:
        return (
            f"{self.order:<8}{self.stages:>6}{self.steps:>7}{self.outcome.chunks_per_s:>12.2f}{self.ratio:>8.2f}x"
            f"{1e3 * self.outcome.latency_s:>12.0f}{self.lateness:>10.2f}   {_split(self.outcome.split)}"
        )

    def as_dict(self) -> dict[str, object]:
        out = self.outcome
        return {
            "order": self.order, "stages": self.stages, "steps": self.steps, "chunks_per_s": out.chunks_per_s,
            "ratio": self.ratio, "latency_ms": 1e3 * out.latency_s, "latency_in_rounds": self.lateness,
            "split": out.split,
        }  # fmt: skip


def main() -> int:
    args = _parser().parse_args()
    lines = [line for steps in args.steps for line in _rings(args, steps)]
    slowed = _slowed(args)
    codecs = _codecs(args)
    if args.json is not None:
        write_report(
            args.json,
            command("ring_benchmark", ("--json", "--html")),
            ("torch", "numpy"),
            {"rings": [line.as_dict() for line in lines], "slowed": slowed, "codecs": codecs},
        )
    if args.html is not None:
        args.html.write_text(_page(args, lines), encoding="utf-8")
    return 0


def _rings(args: argparse.Namespace, steps: int) -> list[Line]:
    pace = Pace(args.block_ms / 1e3)
    one = measure(RingCase((pace,), LAYERS, steps), max(3, args.chunks // 8), 1)
    lines = [Line("one", 1, steps, one, 1.0, one.latency_s / (steps * LAYERS * pace.block_s))]
    print("order   stages  steps  chunks / s   of one  latency ms  in rounds   blocks")
    print(lines[0].words, flush=True)
    for stages in [stages for stages in args.stages if stages > 1]:
        for order, how in ORDERS.items():
            case = RingCase((pace,) * stages, LAYERS, steps, **how)
            settle = stages * (2 * steps if case.stream_batch else 2)
            outcome = measure(case, args.chunks, settle)
            lateness = outcome.latency_s / (steps * case.round_s)
            lines.append(Line(order, stages, steps, outcome, outcome.chunks_per_s / one.chunks_per_s, lateness))
            print(lines[-1].words, flush=True)
    return lines


def _slowed(args: argparse.Namespace) -> dict[str, object]:
    """One of four ranks takes three times as long."""
    pace = Pace(args.block_ms / 1e3)
    slow = replace(pace, block_s=SLOW * pace.block_s)
    return _moved(f"one of four ranks takes {SLOW} times as long", RingCase((pace, slow, pace, pace), LAYERS), args)


def _codecs(args: argparse.Namespace) -> dict[str, object]:
    """The first rank encodes for as long as 5 blocks take, the last decodes for as long as 10."""
    pace = Pace(args.block_ms / 1e3)
    first = replace(pace, encode_s=5 * pace.block_s)
    last = replace(pace, decode_s=10 * pace.block_s)
    return _moved("the first rank encodes, the last decodes", RingCase((first, pace, pace, last), LAYERS), args)


def _moved(title: str, case: RingCase, args: argparse.Namespace) -> dict[str, object]:
    """The same ring with the even split, and once its blocks are where the block scheduler wants them."""
    with ring(replace(case, balanced=False)) as pipeline:
        before = flow(pipeline, case, args.chunks, 2 * case.ranks)
        balancer = pipeline.head.balancer
        balancer.thaw()
        until = time.monotonic() + args.patience_s
        while time.monotonic() < until:
            split = balancer.split
            flow(pipeline, case, 4 * case.ranks, 1)
            if balancer.split == split != even(case.layers, case.ranks) and balancer.goal is None:
                break
        after = flow(pipeline, case, args.chunks, 2 * case.ranks)
    optimum = best([Cost(*cost) for cost in after.costs], case.layers)
    off = max(abs(a - b) for a, b in zip(after.split, optimum, strict=True))
    gain = after.chunks_per_s / before.chunks_per_s
    print(f"{title}: {_split(before.split)} -> {_split(after.split)}, optimum by the measured costs {_split(optimum)},")
    print(f"  off by at most {off} blocks; throughput {gain:.2f}x that of the even split", flush=True)
    return {"even": before.split, "split": after.split, "optimum": optimum, "off": off, "gain": gain}


def _page(args: argparse.Namespace, lines: Sequence[Line]) -> str:
    charts = []
    for steps in args.steps:
        its = [line for line in lines if line.steps == steps]
        series = {
            order: [(float(line.stages), line.ratio) for line in its if line.order in (order, "one")]
            for order in ORDERS
        }
        ideal = {"ideal": [(float(stages), float(stages)) for stages in args.stages]}
        charts.append(plot.chart(f"Throughput by stages, {steps} steps", "of one device", {**ideal, **series}))
    most = max(args.stages)
    longest = [line for line in lines if line.stages == most]
    late = {
        order: [(float(line.steps), line.lateness * line.steps) for line in longest if line.order == order]
        for order in ORDERS
    }
    charts.append(plot.chart(f"Latency by steps, {most} stages", "rounds of the ring", late))
    notes = (
        f"{LAYERS} blocks of {args.block_ms:g} ms each, programmed; processes on one machine, tensors by gloo. "
        f"Latency is that of a chunk while the ring is kept full."
    )
    return plot.page("A ring over many devices", charts, notes)


def _split(split: Sequence[int]) -> str:
    return "+".join(map(str, split))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--stages", type=_count(16), nargs="+", default=[1, 2, 4, 8], help="numbers of stages (default: 1 2 4 8)")
    add("--steps", type=_count(4), nargs="+", default=[1, 2, 4], help="numbers of steps (default: 1 2 4)")
    add("--block-ms", type=float, default=10.0, help="what a block takes for a row (default: %(default)s)")
    add("--chunks", type=_count(10_000), default=32, help="chunks that count, of each ring (default: %(default)s)")
    add("--patience-s", type=float, default=60.0, help="how long blocks may take to find their places (default: 60)")
    add("--json", type=Path, metavar="FILE", help="write a report")
    add("--html", type=Path, metavar="FILE", help="write plots")
    return parser


def _count(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"is from 1 to {most}, not {value}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
