"""The command line of the latency benchmark: `streamgen bench`, and scripts/latency_benchmark.py."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from streamgen.bench.barcode import MIN_WIDTH, SOURCES
from streamgen.bench.latency import Outcome, Settings, check, measure
from streamgen.bench.machine import machine, versions
from streamgen.bench.measure import Figures
from streamgen.bench.server import running, serve_command
from streamgen.client import Client
from streamgen.errors import ConfigError, StreamgenError

PACKAGES = ("aiortc", "av", "numpy", "torch")
DESCRIPTION = """Sends stamped pictures through a streamgen service and measures when each comes back.
Without --url it starts a server of its own on this machine."""
COLUMNS = (
    *("session", "ttff", "p50", "p95", "p99", "max", "jitter", "first 5s", "last 5s"),
    *("fps in", "fps out", "sent", "received", "late", "unreadable"),
)
COLUMN_WIDTH = 6

MIN_HEIGHT = 64

DONE, FAILED, WRONG_USAGE = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares all options of the benchmark on `parser`; `run` takes what it parses."""
    where = parser.add_argument_group("server")
    where.add_argument("--url", help="service to measure; without it one is started here")
    where.add_argument("--token", help="bearer token of the service")
    where.add_argument("--serve-args", default="", metavar="ARGS", help="options for the server that is started")
    where.add_argument(
        "--start-timeout", type=_positive, default=300.0, metavar="S", help="for that server (default 300)"
    )
    load = parser.add_argument_group("load")
    load.add_argument("--seconds", type=_positive, default=20.0, help="how long frames are sent (default 20)")
    load.add_argument("--fps", type=_positive, default=16.0, help="frames a second (default 16)")
    load.add_argument("--width", type=int, default=320, help="pixels (default 320)")
    load.add_argument("--height", type=int, default=192, help="pixels (default 192)")
    load.add_argument("--sessions", type=int, default=1, metavar="N", help="sessions at once (default 1)")
    load.add_argument("--input", type=Path, metavar="FILE", help="send this video instead of a drawn scene")
    load.add_argument("--prompt", default="a pencil drawing", help="session parameter")
    load.add_argument("--steps", type=int, help="session parameter")
    load.add_argument("--noise", type=float, help="session parameter")
    load.add_argument("--slo-ms", type=_positive, help="session parameter: latency budget")
    report = parser.add_argument_group("report")
    report.add_argument("--json", type=Path, metavar="FILE", help="also write the report to FILE")
    report.add_argument("--max-ttff-ms", type=_positive, help="exit 1 where the first frame takes longer")
    report.add_argument("--max-p95-ms", type=_positive, help="exit 1 where the 95th percentile is higher")
    report.add_argument(
        "--max-growth-ms", type=float, help="exit 1 where the last 5 s are slower than the first by more"
    )
    report.add_argument("--min-fps-out", type=_positive, help="exit 1 where fewer results a second come back")


def run(args: argparse.Namespace) -> int:
    """Measures, prints, writes the report. Exit status: 0 done, 1 failed or a gate missed, 2 wrong usage."""
    try:
        settings = _settings(args)
        outcome = asyncio.run(_measure(args, settings))
    except ConfigError as error:
        return _fail([str(error)], WRONG_USAGE)
    except StreamgenError as error:
        return _fail([str(error)])
    except KeyboardInterrupt:
        return _fail(["interrupted; nothing was measured"])
    sys.stdout.write(table(outcome))
    if args.json is not None:
        try:
            args.json.write_text(json.dumps(document(args, outcome), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            return _fail([f"cannot write {args.json}: {error.strerror}"])
    gates = ("max_ttff_ms", "max_p95_ms", "max_growth_ms", "min_fps_out")
    set_gates = {name: getattr(args, name) for name in gates if getattr(args, name) is not None}
    return _fail(outcome.errors + check(outcome, set_gates))


def main(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a program."""
    return run(_parser().parse_args(argv))


def table(outcome: Outcome) -> str:
    """The figures for people, times in ms."""
    lines = [_aligned(*COLUMNS)]
    rows = [(str(number), it) for number, it in enumerate(outcome.sessions, 1) if isinstance(it, Figures)]
    if outcome.overall is not None and len(rows) > 1:
        rows.append(("all", outcome.overall))
    lines += [_row(name, figures) for name, figures in rows]
    for name, figures in rows:
        if figures.drops:
            drops = ", ".join(f"{reason} {count}" for reason, count in sorted(figures.drops.items()))
            lines.append(f"dropped by the service ({name}): {drops}")
    return "\n".join(lines) + "\n"


def document(args: argparse.Namespace, outcome: Outcome) -> dict[str, object]:
    """The report for programs: DESIGN's {"command", "machine", "versions", "results"}."""
    return {
        "command": command(args),
        "machine": machine(),
        "versions": versions(PACKAGES),
        "results": outcome.as_dict(),
    }


def command(args: argparse.Namespace) -> str:
    """The options that differ from their defaults, without what is this machine's own business."""
    words = ["latency_benchmark"]
    for name, default in vars(_parser().parse_args([])).items():
        value = getattr(args, name)
        if value != default and name not in ("json", "token"):
            words += [f"--{name.replace('_', '-')}", "URL" if name == "url" else _shown(value)]
    return shlex.join(words)


async def _measure(args: argparse.Namespace, settings: Settings) -> Outcome:
    if args.url is not None:
        return await _connect(args.url, args.token, settings)
    extra = shlex.split(args.serve_args) + (["--token", args.token] if args.token else [])
    async with running(serve_command(extra), args.start_timeout) as server:
        return await _connect(server.url, args.token, settings)


async def _connect(url: str, token: str | None, settings: Settings) -> Outcome:
    async with Client(url, token=token) as client:
        return await measure(client, settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="latency_benchmark", description=DESCRIPTION)
    add_arguments(parser)
    return parser


def _settings(args: argparse.Namespace) -> Settings:
    """Raises ConfigError."""
    if args.width < MIN_WIDTH:
        raise ConfigError(f"--width must be at least {MIN_WIDTH}, not {args.width}: the barcode needs the room")
    if args.height < MIN_HEIGHT:
        raise ConfigError(f"--height must be at least {MIN_HEIGHT}, not {args.height}")
    if not 1 <= args.sessions <= SOURCES:
        raise ConfigError(f"--sessions must be from 1 to {SOURCES}, not {args.sessions}")
    if args.input is not None and not args.input.is_file():
        raise ConfigError(f"--input: there is no file {args.input}")
    optional = {name: getattr(args, name) for name in ("steps", "noise", "slo_ms") if getattr(args, name) is not None}
    return Settings(
        seconds=args.seconds,
        fps=args.fps,
        width=args.width,
        height=args.height,
        sessions=args.sessions,
        params={"prompt": args.prompt, **optional},
        input=args.input,
    )


def _row(name: str, it: Figures) -> str:
    quantiles = (it.glass_to_glass_ms[key] for key in ("p50", "p95", "p99", "max"))
    times = (it.ttff_ms, *quantiles, it.jitter_ms, it.first_5s_p50, it.last_5s_p50)
    counts = (it.frames_sent, it.frames_received, it.deadline_misses, it.unreadable)
    return _aligned(
        name,
        *("-" if time is None else f"{time:.0f}" for time in times),
        *(f"{rate:.1f}" for rate in (it.fps_in, it.fps_out)),
        *(str(count) for count in counts),
    )


def _aligned(*cells: str) -> str:
    return "  ".join(cell.rjust(max(len(title), COLUMN_WIDTH)) for cell, title in zip(cells, COLUMNS, strict=True))


def _shown(value: object) -> str:
    match value:
        case Path():
            return value.name
        case float():
            return f"{value:g}"
    return str(value)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _fail(lines: Sequence[str], status: int = FAILED) -> int:
    """`status` for these failures, told on stderr; 0 where there are none."""
    for line in lines:
        sys.stderr.write(f"error: {line}\n")
    return status if lines else DONE


if __name__ == "__main__":
    sys.exit(main())
