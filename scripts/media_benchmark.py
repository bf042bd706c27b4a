#!/usr/bin/env python
"""The media plane alone: our service without a model, and a stock aiortc echo, in turn, each in two processes.

    python scripts/media_benchmark.py                                latency and CPU, three sizes and codecs
    python scripts/media_benchmark.py --slow-consumer 20             a reader that takes 20 of 30 frames a second
    python scripts/media_benchmark.py --loss 0.05 --rtt 40           packets lost both ways (ours alone)

Frames carry a barcode of the sender's clock: latency is from drawing a frame to having its result decoded. cpu is what
the server's processes take, client what this one takes, in cores. Prints what is aimed at, and whether it is met.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from streamgen.bench.link import Quality
from streamgen.bench.machine import machine, versions
from streamgen.bench.media import Case, Side, measure_ours, measure_stock
from streamgen.bench.server import running, serve_command
from streamgen.errors import StreamgenError

CASES = ("832x480/h264", "832x480/vp8", "512x288/h264")
SERVER = ("--preset", "passthrough")
START_TIMEOUT_S = 60.0
COLUMNS = {"p50": "p50", "p95": "p95", "p99": "p99", "cpu": "cpu", "client_cpu": "client", "fps": "fps", "back": "back"}
"""Figures, and what they are called in the table."""

DONE, FAILED, WRONG_USAGE = 0, 1, 2

Row = dict[str, dict[str, float] | float]


def main() -> int:
    args = _parser().parse_args()
    try:
        cases = [Case.parse(text) for text in args.case]
    except StreamgenError as error:
        return _fail(str(error), WRONG_USAGE)
    try:
        results = asyncio.run(_run(args, cases))
    except StreamgenError as error:
        return _fail(str(error))
    goals = [goal for name, row in results.items() for goal in _goals(name, row, args)]
    for name, value, bound, met in goals:
        print(f"| {name} | {value:g} | {bound} | {'met' if met else 'missed'} |")
    if args.json is not None:
        report = {
            "command": shlex.join(["media_benchmark", *_shown(sys.argv[1:])]),
            "machine": machine(),
            "versions": versions(("aiortc", "av", "numpy")),
            "results": results,
            "goals": {name: {"value": value, "bound": bound, "met": met} for name, value, bound, met in goals},
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return DONE


async def _run(args: argparse.Namespace, cases: Sequence[Case]) -> dict[str, Row]:
    results: dict[str, Row] = {}
    for case in cases:
        text, ours, stock = str(case), Side(), Side()
        reading_s = 1 / args.slow_consumer if args.slow_consumer else 0.0
        link = Quality(args.loss, args.rtt / 2000) if args.loss or args.rtt else None
        for _ in range(args.rounds):
            async with running(serve_command(SERVER), START_TIMEOUT_S) as server:
                await measure_ours(server, case, args.seconds, ours, link, reading_s)
            if link is None and not reading_s:
                await measure_stock(case, args.seconds, stock)
        row: Row = {"ours": ours.figures()}
        _print(text, "ours", ours)
        if stock.samples:
            row |= {"stock": stock.figures(), "ratio_p50": _ratio(stock, ours)}
            _print(text, "stock", stock)
            print(f"{'':14} stock's p50 is {row['ratio_p50']:.1f} times ours")
        else:
            row["steadiness"] = ours.steadiness()
            print(f"{'':14} {row['steadiness']}")
        results[text] = row
    return results


def _ratio(stock: Side, ours: Side) -> float:
    return round(stock.figures()["p50"] / ours.figures()["p50"], 2)


def _print(case: str, name: str, side: Side) -> None:
    figures = side.figures()
    cells = (f"{title:>8} {figures[column]:7.2f}" for column, title in COLUMNS.items())
    print(f"{case:14} {name:6}" + "".join(cells), flush=True)


def _goals(case: str, row: Row, args: argparse.Namespace) -> list[tuple[str, float, str, bool]]:
    """What is aimed at, of a case: what, value, bound, met."""
    ours = row["ours"]
    assert isinstance(ours, dict)
    steady = row.get("steadiness")
    if isinstance(steady, dict):
        if args.slow_consumer:
            growth = steady["last_quarter_p50"] - steady["first_quarter_p50"]
            return [
                _at_most(f"{case}, slow consumer, p50 (ms)", ours["p50"], 120),
                _at_most(f"{case}, slow consumer, growth of p50 (ms)", round(growth, 2), 20),
            ]
        return [
            _at_least(f"{case}, results of the frames sent", ours["back"], 0.9),
            _at_most(f"{case}, longest freeze (ms)", steady["longest_freeze"], 300),
            _at_most(f"{case}, latency back to normal (ms)", steady["back_to_normal"], 1000),
        ]
    stock, ratio = row["stock"], row["ratio_p50"]
    assert isinstance(stock, dict)
    assert isinstance(ratio, float)
    goals = [
        _at_most(f"{case}, cpu", ours["cpu"], stock["cpu"]),
        _at_least(f"{case}, results of the frames sent", ours["back"], 0.98),
    ]
    if case == "832x480/h264":
        goals += [_at_least(f"{case}, ratio of p50", ratio, 6), _at_most(f"{case}, p99 (ms)", ours["p99"], 40)]
    if case == "832x480/vp8":
        goals += [_at_least(f"{case}, ratio of p50", ratio, 4)]
    if case == "512x288/h264":
        goals += [_at_most(f"{case}, p50 (ms)", ours["p50"], 15)]
    return goals


def _at_most(name: str, value: float, bound: float) -> tuple[str, float, str, bool]:
    return name, value, f"at most {bound:g}", value <= bound


def _at_least(name: str, value: float, bound: float) -> tuple[str, float, str, bool]:
    return name, value, f"at least {bound:g}", value >= bound


def _shown(words: Sequence[str]) -> list[str]:
    """The arguments, without where the report goes."""
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if before != "--json" and word.partition("=")[0] != "--json"
    ]


def _fail(why: str, status: int = FAILED) -> int:
    sys.stderr.write(f"media_benchmark: {why}\n")
    return status


def _within(low: float, high: float) -> Callable[[str], float]:
    """For argparse: numbers above `low` and below `high`."""

    def parse(text: str) -> float:
        number = float(text)
        if not low < number < high:
            raise argparse.ArgumentTypeError(f"{text} is not above {low:g} and below {high:g}")
        return number

    return parse


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--case", nargs="+", default=list(CASES), metavar="WxH/CODEC", help=f"(default {' '.join(CASES)})"
    )
    parser.add_argument(
        "--seconds", type=_within(0, 3600), default=10.0, help="of each round, after its warm-up (default 10)"
    )
    parser.add_argument("--rounds", type=_count, default=3, metavar="N", help="of ours and stock in turn (default 3)")
    parser.add_argument(
        "--slow-consumer", type=_within(0, 1000), default=0.0, metavar="FPS", help="frames a second that are read"
    )
    parser.add_argument("--loss", type=_within(0, 1), default=0.0, metavar="SHARE", help="of the packets, each way")
    parser.add_argument("--rtt", type=_within(0, 10_000), default=0.0, metavar="MS", help="there and back")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
