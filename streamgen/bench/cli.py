"""The command line of the latency benchmark: `streamgen bench`, and scripts/latency_benchmark.py."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from streamgen.bench import compare, options, page, tables
from streamgen.bench.gates import GATES, check
from streamgen.bench.latency import Outcome, Settings, measure
from streamgen.bench.machine import machine, versions
from streamgen.bench.options import add_arguments
from streamgen.bench.server import running, serve_command
from streamgen.client import Client
from streamgen.errors import ConfigError, StreamgenError

__all__ = ["add_arguments", "main", "run"]

PACKAGES = ("aiortc", "av", "numpy", "torch")

DONE, FAILED, WRONG_USAGE = 0, 1, 2


def run(args: argparse.Namespace) -> int:
    """Measures, prints, writes the reports. Exit status: 0 done, 1 failed or a limit missed, 2 wrong usage."""
    try:
        if args.compare is not None:
            return _compare(args)
        settings = options.settings(args)
        outcome = asyncio.run(_measure(args, settings))
    except ConfigError as error:
        return _fail([str(error)], WRONG_USAGE)
    except StreamgenError as error:
        return _fail([str(error)])
    except KeyboardInterrupt:
        return _fail(["interrupted; nothing was measured"])
    sys.stdout.write(tables.table(outcome))
    gates = {name: getattr(args, name) for name in GATES if getattr(args, name) is not None}
    faults = outcome.errors + check(outcome, gates)
    return _fail(_write(args, outcome, faults) + faults)


def main(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a program."""
    return run(options.parser().parse_args(argv))


def document(args: argparse.Namespace, outcome: Outcome) -> dict[str, object]:
    """The report for programs: DESIGN's {"command", "machine", "versions", "results"}."""
    return {
        "command": options.command(args),
        "machine": machine(),
        "versions": versions(PACKAGES),
        "results": outcome.as_dict(),
    }


def _compare(args: argparse.Namespace) -> int:
    """Raises ConfigError."""
    one, other = (compare.read(file) for file in args.compare)
    sys.stdout.write(compare.table(one, other))
    return _fail([] if args.worse_than is None else compare.worse(one, other, args.worse_than))


def _write(args: argparse.Namespace, outcome: Outcome, faults: Sequence[str]) -> list[str]:
    """Writes the reports that are asked for; one line for each that could not be written."""
    failed = []
    report = document(args, outcome)
    makers: tuple[tuple[Path | None, Callable[[], str]], ...] = (
        (args.json, lambda: json.dumps(report, indent=2) + "\n"),
        (args.csv, lambda: tables.sessions_csv(outcome)),
        (args.frames_csv, lambda: tables.frames_csv(outcome)),
        (args.html, lambda: page.page(report, outcome, faults)),
    )
    for file, make in makers:
        if file is not None and (problem := _written(file, make())):
            failed.append(problem)
    return failed


def _written(file: Path, text: str) -> str | None:
    """What went wrong, if anything did."""
    try:
        file.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        return f"cannot write {file}: {error.strerror}"
    return None


async def _measure(args: argparse.Namespace, settings: Settings) -> Outcome:
    if args.url is not None:
        return await _connect(args.url, args.token, settings)
    extra = shlex.split(args.serve_args) + (["--token", args.token] if args.token else [])
    async with running(serve_command(extra), args.start_timeout) as server:
        return await _connect(server.url, args.token, settings)


async def _connect(url: str, token: str | None, settings: Settings) -> Outcome:
    async with Client(url, token=token) as client:
        return await measure(client, settings)


def _fail(lines: Sequence[str], status: int = FAILED) -> int:
    """`status` for these failures, told on stderr; 0 where there are none."""
    for line in lines:
        sys.stderr.write(f"error: {line}\n")
    return status if lines else DONE


if __name__ == "__main__":
    sys.exit(main())
