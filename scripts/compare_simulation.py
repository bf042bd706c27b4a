#!/usr/bin/env python
"""Whether the simulation tells the truth: the same sessions with a real engine in real time, and simulated.

    python scripts/compare_simulation.py                   the fake pipeline with programmed costs, then tiny on the CPU
    python scripts/compare_simulation.py --preset fake --loads 0.5 0.9 --seconds 60

The real side is the service's own loop, sessions and pacing with an engine in a worker process; cameras and screens are
the simulation's, on the machine's clock. The simulated side takes the costs that the real one had fitted by its end,
and the noise about them in the order in which it was: it says what becomes of the frames then.
Wants a quiet machine. Exits with 1 where they differ by more than 15 % in p95 latency or 2 points in the miss rate.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pipelines
from pipelines.bench.arguments import command
from pipelines.fake import FAKE_SPEC, FakeCost, FakePipeline
from streamgen.bench.machine import write_report
from streamgen.core import Params, Pipeline
from streamgen.simulation.contender import CONTENDERS
from streamgen.simulation.device import Device
from streamgen.simulation.outcome import Outcome
from streamgen.simulation.run import Run, simulate
from streamgen.simulation.trace import CROWDS
from streamgen.simulation.trial import Bench, Trial
from streamgen.simulation.workload import DEVICE, offered, paced

P95_WITHIN = 0.15
MISSES_WITHIN = 0.02

LEARNING_S = 10.0

SAME, OTHER = 0, 1

PROGRAMMED = FakeCost(
    encode_s=0.003, encode_call_s=0.002, call_s=0.004, step_s=0.006, decode_s=0.005, decode_call_s=0.002
)

FACTORIES: dict[str, Callable[[], Pipeline[Any]]] = {
    "fake": functools.partial(FakePipeline, FAKE_SPEC, PROGRAMMED),
    "tiny": functools.partial(pipelines.build, "tiny", device="cpu"),
}

SESSIONS: dict[str, list[dict[str, object]]] = {
    "fake": [{"fps": fps, "steps": steps, "slo_ms": slo}
             for fps, steps, slo in ((12.0, 1, 400.0), (16.0, 2, 700.0), (24.0, 2, 500.0), (20.0, 3, 1000.0),
                                     (10.0, 2, 900.0), (16.0, 1, 600.0))],
    "tiny": [{"fps": 12.0, "steps": 1, "slo_ms": 2000.0}, {"fps": 8.0, "steps": 2, "slo_ms": 3000.0},
             {"fps": 10.0, "steps": 1, "slo_ms": 2500.0}],
}  # fmt: skip


class Pair(NamedTuple):
    """One load, measured and predicted."""

    load: float
    measured: Outcome
    predicted: Outcome

    @property
    def p95_off(self) -> float:
        """Relative."""
        return self.predicted.p95 / self.measured.p95 - 1 if self.measured.p95 else 0.0

    @property
    def misses_off(self) -> float:
        """Absolute."""
        return self.predicted.miss_rate - self.measured.miss_rate

    @property
    def same(self) -> bool:
        return abs(self.p95_off) <= P95_WITHIN and abs(self.misses_off) <= MISSES_WITHIN

    def as_dict(self) -> dict[str, object]:
        measured, predicted = self.measured.as_dict(), self.predicted.as_dict()
        return {"measured": measured, "predicted": predicted, "p95_off": self.p95_off, "misses_off": self.misses_off}


def main() -> int:
    args = _parser().parse_args()
    results: dict[str, dict[str, object]] = {}
    same = True
    print("preset policy     load   p95 measured  predicted      off   misses measured  predicted      off")
    for preset in args.preset:
        for name, pair in asyncio.run(_pairs(preset, args)):
            results.setdefault(preset, {})[f"{name} {pair.load:g}"] = pair.as_dict()
            same = same and pair.same
    if args.json is not None:
        write_report(args.json, command("compare_simulation", ("--json",)), ("torch", "numpy"), results)
    return SAME if same else OTHER


async def _pairs(preset: str, args: argparse.Namespace) -> list[tuple[str, Pair]]:
    pairs = []
    device = replace(DEVICE, max_batch=4, depth=2, hiccups=0.0)
    async with Bench(FACTORIES[preset], device) as bench:
        spec = bench.engine.spec
        cost = bench.known
        base = [spec.defaults.updated(changes) for changes in SESSIONS[preset]]
        # what it can do it shows at work, and not while it warms up
        learning = argparse.Namespace(seconds=LEARNING_S, seed=args.seed)
        cost = (await bench.tried(_run(args.policies[0], 0.6, base, replace(device, costs=cost), learning, bench))).cost
        for name in args.policies:
            for load in args.loads:
                run = _run(name, load, base, replace(device, costs=cost), args, bench)
                trial = await bench.tried(run)
                cost = trial.cost
                pair = Pair(load, trial.outcome, await asyncio.to_thread(simulate, _simulated(run, trial)))
                print(_line(preset, name, pair), flush=True)
                pairs.append((name, pair))
    return pairs


def _run(name: str, load: float, base: list[Params], device: Device, args: argparse.Namespace, bench: Bench) -> Run:
    spec = bench.engine.spec
    wanted = list(base)
    while offered(wanted, device, spec) < 0.75 * load:
        wanted += base
    sessions = paced(wanted, device, load, spec)
    visits = CROWDS["jittery"](sessions, args.seconds, Random(f"visits {load} {args.seed}"))
    warm_up_s = min(10.0, args.seconds / 4)
    return Run(CONTENDERS[name], visits, device, args.seconds, warm_up_s, args.seed, spec, cost=device.costs)


def _simulated(run: Run, trial: Trial) -> Run:
    return replace(run, device=trial.device(run.device), cost=trial.cost)


def _line(preset: str, name: str, pair: Pair) -> str:
    measured, predicted = pair.measured, pair.predicted
    return (
        f"{preset:6} {name:9} {pair.load:5.2f} {measured.p95:11.0f} ms {predicted.p95:7.0f} ms {pair.p95_off:+8.1%} "
        f"{measured.miss_rate:16.2%} {predicted.miss_rate:10.2%} {100 * pair.misses_off:+6.2f} pt"
        f"{'' if pair.same else '   differ'}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", choices=tuple(FACTORIES), default=tuple(FACTORIES))
    parser.add_argument("--policies", nargs="+", choices=tuple(CONTENDERS), default=("deadline",), metavar="P")
    parser.add_argument("--loads", type=float, nargs="+", default=(0.4, 0.7, 0.9, 1.3), metavar="L")
    parser.add_argument("--seconds", type=float, default=40.0, metavar="S", help="of each run (default 40)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
