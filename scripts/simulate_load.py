#!/usr/bin/env python
"""The service's scheduler under load, in virtual time: what becomes of frames, and how much a device can take on.

    python scripts/simulate_load.py                                  every policy over load 0.2 to 3.0, a few minutes
    python scripts/simulate_load.py --trace bursty --policies deadline fifo --loads 0.9 2.0
    python scripts/simulate_load.py --json sweep.json --html sweep.html
    python scripts/simulate_load.py --capacity --costs costs.json --set slo_ms=500 --set steps=1
    python scripts/simulate_load.py --capacity --fleet 10000 --costs costs.json
    python scripts/simulate_load.py --capacity --stages 4            four such devices in a row, with chunks that flow
    python scripts/simulate_load.py --planning                       what one decision about 256 sessions takes

Load is the device time that sessions would take at the quality that they ask for, of what the device has, or several in
a row have. The sweep's device is fast enough for two dozen of them; the sessions differ in frame rate, budget, steps
and size.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from pipelines.bench.arguments import command
from streamgen.bench.machine import write_report
from streamgen.core import Params
from streamgen.costfile import load
from streamgen.engine.messages import one_line
from streamgen.errors import ParamsError, StreamgenError
from streamgen.scheduler.cost import UNKNOWN, Shape
from streamgen.simulation.contender import CONTENDERS
from streamgen.simulation.decision import Decisions, decisions
from streamgen.simulation.device import Device, cost_model
from streamgen.simulation.planning import (
    MISSES,
    TURNED_AWAY,
    Answer,
    Question,
    devices_for,
    sessions_per_device,
    sessions_per_device_of_fleet,
)
from streamgen.simulation.sweep import LOADS, lines, plots, sweep
from streamgen.simulation.trace import CROWDS
from streamgen.simulation.workload import DEVICE, SPEC

DONE, WRONG_USAGE = 0, 2

SAMPLED = 4
"""Devices of a fleet that are simulated."""

STAY_S = 60.0


def main() -> int:
    args = _parser().parse_args()
    try:
        if args.planning:
            results = _planning(args)
        elif args.capacity or args.fleet:
            results = _capacity(args)
        else:
            results = _sweep(args)
    except StreamgenError as error:
        sys.stderr.write(f"simulate_load: {error}\n")
        return WRONG_USAGE
    if args.json is not None:
        write_report(args.json, command("simulate_load", ("--json", "--html")), ("numpy",), results)
    return DONE


def _sweep(args: argparse.Namespace) -> dict[str, object]:
    contenders = [CONTENDERS[name] for name in args.policies]
    with tqdm(total=len(contenders) * len(args.loads), unit="run", disable=None) as bar:
        results = sweep(
            contenders,
            args.loads,
            args.trace,
            args.seconds,
            args.seed,
            _in_a_row(DEVICE, args),
            done=functools.partial(bar.update, 1),
        )
    title = f"Load on {_devices(args)}: {args.trace} trace"
    notes = f"{args.seconds:g} s of virtual time for each point, seed {args.seed}."
    print("\n".join([f"{title}. {notes}", *(f"  {c.name:9} {c.title}" for c in contenders), *lines(results)]))
    if args.html is not None:
        args.html.write_text(plots(results, title, notes), encoding="utf-8")
    return {name: {f"{load:g}": its.as_dict() for load, its in by.items()} for name, by in results.items()}


def _planning(args: argparse.Namespace) -> dict[str, object]:
    found = {count: decisions(count, args.seed) for count in (16, 64, 256)}
    print("sessions   mean us    p50 us    p99 us   of one decision, every session with a chunk queued")
    for count, its in found.items():
        print(f"{count:8} {its.mean_us:9.0f} {its.p50_us:9.0f} {its.p99_us:9.0f}")
    return {str(count): Decisions._asdict(its) for count, its in found.items()}


def _capacity(args: argparse.Namespace) -> dict[str, object]:
    device, params = _device(args), _params(args)
    question = Question(params, device, replace(SPEC, defaults=params), args.ladder, args.seconds, args.seed)
    what = f"{params.width}x{params.height}, {params.fps:g} fps, {params.steps} steps, {params.slo_ms:g} ms"
    quality = "with lower quality under load" if args.ladder else "at the quality asked for"
    print(f"Sessions of {what}, {quality}:")
    alone = sessions_per_device(question)
    within = f"with at most {MISSES:.0%} of the frames missed"
    print(f"  {alone.sessions} on {_devices(args)}, all there all the time, {within}")
    _fares(alone)
    results: dict[str, object] = {"sessions_per_device": alone.sessions, "outcome": _dict(alone)}
    if args.fleet:
        shared = sessions_per_device_of_fleet(question, SAMPLED, STAY_S)
        if not shared.sessions:
            print(f"  none on {_devices(args)} of a fleet")
            return results
        count = devices_for(args.fleet, shared.sessions)
        each = "device" if args.stages == 1 else f"row of {args.stages} devices"
        print(
            f"  {shared.sessions} on each {each} of a fleet in the mean, where they come at random and stay for "
            f"{STAY_S:g} s: {count * args.stages} devices for {args.fleet} sessions"
        )
        _fares(shared)
        print(
            f"  (assumed: a sample of {SAMPLED} of them stands for all; each newcomer goes to the one with the fewest "
            f"sessions; arrivals are random and independent; at most {TURNED_AWAY:.0%} of the sessions may have to "
            "wait; no device fails; sessions stay where they are)"
        )
        devices = count * args.stages
        results |= {"per_device_of_fleet": shared.sessions, "devices": devices, "fleet_outcome": _dict(shared)}
    return results


def _fares(answer: Answer) -> None:
    its = answer.outcome
    if its is not None:
        print(
            f"    then: misses {its.miss_rate:.2%}, latency p50 {its.p50:.0f} ms, p99 {its.p99:.0f} ms, "
            f"mean rung {its.mean_rung:.2f}, {its.queued} queued, {its.refused} refused"
        )


def _dict(answer: Answer) -> object:
    return None if answer.outcome is None else answer.outcome.as_dict()


def _device(args: argparse.Namespace) -> Device:
    """Raises ParamsError where no costs are given that can be used."""
    device = _in_a_row(
        replace(
            DEVICE, max_batch=args.max_batch, overlap=args.overlap, slots=args.slots, spread=args.spread, hiccups=0.002
        ),
        args,
    )
    if args.costs is not None:
        try:
            costs = load(args.costs)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ParamsError("costs", f"cannot be read from {args.costs}: {one_line(error)}") from error
        if costs == UNKNOWN:
            raise ParamsError("costs", f"of {args.costs} are of another version")
        return replace(device, costs=costs)
    if args.cost is not None:
        pairs = [pair.split("+") for pair in args.cost.split(",")]
        try:
            numbers = [(float(fixed) / 1000, float(row) / 1000) for fixed, row in pairs]
            lines_ = dict(zip(("transfer", "encode", "denoise", "decode"), numbers, strict=True))
        except ValueError as error:
            raise ParamsError("cost", "must be four of FIXED+ROW in ms, between commas") from error
        params = _params(args)
        return replace(device, costs=cost_model(Shape(SPEC.chunk_frames, params.width, params.height), lines_))
    return device


def _in_a_row(device: Device, args: argparse.Namespace) -> Device:
    """Raises ParamsError for a number of stages that is none."""
    if args.stages < 1:
        raise ParamsError("stages", f"must be 1 or more, not {args.stages}")
    return device if args.stages == 1 else device.in_a_row(args.stages)


def _devices(args: argparse.Namespace) -> str:
    return "one device" if args.stages == 1 else f"{args.stages} devices in a row"


def _params(args: argparse.Namespace) -> Params:
    """Raises ParamsError."""
    values: dict[str, object] = {}
    for pair in args.set:
        name, _, text = pair.partition("=")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return SPEC.defaults.updated(values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="of virtual time a run (default 60)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a report")
    parser.add_argument("--stages", type=int, default=1, metavar="N", help="devices in a row that chunks flow through")
    load_ = parser.add_argument_group("load sweep (what it does when nothing else is asked for)")
    load_.add_argument("--trace", choices=tuple(CROWDS), default="jittery", help="how frames and clients come")
    load_.add_argument("--loads", type=float, nargs="+", default=LOADS, metavar="L")
    load_.add_argument("--policies", nargs="+", choices=tuple(CONTENDERS), default=tuple(CONTENDERS), metavar="P",
                       help=", ".join(f"{c.name}: {c.title}" for c in CONTENDERS.values()))  # fmt: skip
    load_.add_argument("--html", type=Path, metavar="FILE", help="write a page of plots")
    plan = parser.add_argument_group("capacity")
    plan.add_argument("--capacity", action="store_true", help="how many sessions a device can take on")
    plan.add_argument("--fleet", type=int, default=0, metavar="N", help="and how many devices N sessions need")
    plan.add_argument(
        "--costs", type=Path, metavar="FILE", help="as the service has saved them for a preset and device"
    )
    plan.add_argument("--cost", metavar="F+R,F+R,F+R,F+R",
                      help="ms per call and per row of transfer, encode, denoise, decode")  # fmt: skip
    plan.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the sessions")
    plan.add_argument("--ladder", action="store_true", help="allow for lower quality under load")
    plan.add_argument("--max-batch", type=int, default=DEVICE.max_batch, metavar="N")
    plan.add_argument("--overlap", action="store_true", help="encoder, denoiser and decoder work at the same time")
    plan.add_argument("--slots", type=int, metavar="N", help="sessions whose states fit into memory")
    plan.add_argument("--spread", type=float, default=DEVICE.spread, metavar="S",
                      help=f"of what stages take, relative (default {DEVICE.spread:g})")  # fmt: skip
    parser.add_argument("--planning", action="store_true", help="time the planning alone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
