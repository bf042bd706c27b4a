"""The options of the latency benchmark, and what they ask for."""

from __future__ import annotations

import argparse
import shlex
import textwrap
from pathlib import Path

from streamgen.bench import trace
from streamgen.bench.latency import Settings
from streamgen.bench.trace import Arrival
from streamgen.errors import ConfigError

DESCRIPTION = """Sends stamped pictures through a streamgen service and measures when each comes back.

Without --url it starts a server of its own on this machine. Exit status: 0 done, 1 failed or a limit missed, 2 wrong
usage. With --compare it measures nothing, and holds two reports against each other."""

_FORMAT = textwrap.indent("A trace is" + (trace.__doc__ or "").partition("A trace is")[2].rstrip(), "  ")

EPILOG = f"""a trace, for --trace:
{_FORMAT}
  As JSON: [{{"start_s": 0, "seconds": 30, "prompt": "neon"}}, ...]

examples:
  %(prog)s --sessions 4 --ramp --seconds 60 --slo-ms 800 --html report.html
  %(prog)s --url https://host:8000 --trace day.csv --patience 30 --json report.json --csv sessions.csv
  %(prog)s --compare before.json after.json --worse-than 10"""

MOST_SESSIONS = 256

PARAMETERS = ("steps", "noise", "slo_ms", "vae", "keep", "priority")
"""Session parameters that are sent where they are given."""

OWN_BUSINESS = frozenset({"json", "csv", "frames_csv", "html", "token", "compare", "worse_than"})
"""Options that a report does not tell."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares all options of the benchmark on `parser`."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_server(parser.add_argument_group("server"))
    _add_load(parser.add_argument_group("load"))
    _add_parameters(parser.add_argument_group("session parameters", "as the service's documentation describes them"))
    _add_limits(parser.add_argument_group("limits", "of every session; exit 1 where one is missed"))
    _add_reports(parser.add_argument_group("reports"))


def _add_server(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--url", help="service to measure; without it one is started here")
    add("--token", help="bearer token of the service")
    add("--serve-args", default="", metavar="ARGS", help="options for the server that is started")
    add("--start-timeout", type=_positive, default=300.0, metavar="S", help="for that server (default 300)")


def _add_load(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--seconds",
        type=_positive,
        default=20.0,
        metavar="S",
        help="how long frames are sent, once a session is taken or queued (default 20)",
    )
    add("--fps", type=_positive, default=16.0, help="frames a second (default 16)")
    add("--width", type=int, default=320, help="pixels (default 320)")
    add("--height", type=int, default=192, help="pixels (default 192)")
    add("--sessions", type=int, default=1, metavar="N", help="sessions at once (default 1)")
    add("--ramp", action="store_true", help="let them come one after the other and go in that order, within --seconds")
    add("--ramp-s", type=_positive, metavar="S", help="so far apart (default: they come over the first half)")
    add("--trace", type=Path, metavar="FILE", help="replay the sessions of this CSV or JSON file, see below")
    add("--jitter-ms", type=_not_negative, default=0.0, metavar="J", help="let frames come up to J ms late, unevenly")
    add(
        "--patience",
        type=_not_negative,
        default=0.0,
        metavar="S",
        help="how long to ask again where there is no room (503); default 0: that is an error",
    )
    add(
        "--input", type=Path, metavar="FILE", help="send this video's pictures, over and over, instead of a drawn scene"
    )


def _add_parameters(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--prompt", default="a pencil drawing", help="(default: %(default)s)")
    add("--steps", type=int)
    add("--noise", type=_number)
    add("--slo-ms", type=_positive, metavar="M", help="latency budget; also a limit, with --max-miss-rate")
    add("--vae", help="full or light")
    add("--keep", help="what may not be lowered under load: any of steps, fps, size, vae, between commas")
    add("--priority", help="live or batch")


def _add_limits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--max-miss-rate",
        type=_not_negative,
        default=1.0,
        metavar="PCT",
        help="share of frames that take longer than --slo-ms from glass to glass, or are dropped as late or overload; "
        "not those that a lower frame rate or the queue took (default 1)",
    )
    add("--max-ttff-ms", type=_positive, metavar="M", help="from opening a session to its first result")
    add("--max-p95-ms", type=_positive, metavar="M", help="95th percentile of glass-to-glass latency")
    add("--max-growth-ms", type=_number, metavar="M", help="by which the last 5 s may be slower than the first")
    add("--min-fps-out", type=_positive, metavar="FPS", help="results a second")


def _add_reports(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--json", type=Path, metavar="FILE", help="all figures, with machine and versions")
    add("--csv", type=Path, metavar="FILE", help="a row for every session")
    add("--frames-csv", type=Path, metavar="FILE", help="a row for every frame")
    add("--html", type=Path, metavar="FILE", help="a page with plots, which needs nothing else")
    add("--compare", nargs=2, type=Path, metavar=("A", "B"), help="print the figures of two JSON reports side by side")
    add(
        "--worse-than",
        type=_not_negative,
        metavar="PCT",
        help="with --compare: exit 1 where B's p95 or miss rate is higher than A's by more than PCT %%",
    )


def settings(args: argparse.Namespace) -> Settings:
    """What is to be measured. Raises ConfigError."""
    try:
        trace.check_size(args.width, args.height)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from None
    if not 1 <= args.sessions <= MOST_SESSIONS:
        raise ConfigError(f"--sessions must be from 1 to {MOST_SESSIONS}, not {args.sessions}")
    if args.input is not None and not args.input.is_file():
        raise ConfigError(f"--input: there is no file {args.input}")
    if args.worse_than is not None:
        raise ConfigError("--worse-than goes with --compare")
    given = {name: getattr(args, name) for name in PARAMETERS if getattr(args, name) is not None}
    params = {"prompt": args.prompt, **given}
    return Settings(
        seconds=args.seconds,
        fps=args.fps,
        width=args.width,
        height=args.height,
        sessions=args.sessions,
        params=params,
        input=args.input,
        arrivals=_arrivals(args, Arrival(args.seconds, args.fps, args.width, args.height, params=params)),
        jitter_ms=args.jitter_ms,
        patience_s=args.patience,
    )


def _arrivals(args: argparse.Namespace, like: Arrival) -> tuple[Arrival, ...]:
    """Raises ConfigError."""
    ramped = args.ramp or args.ramp_s is not None
    if args.trace is not None:
        if ramped or args.sessions != 1:
            raise ConfigError("--trace says which sessions come; leave out --sessions and --ramp")
        return trace.read_trace(args.trace, like)
    if not ramped:
        return trace.constant(like, args.sessions)
    try:
        return trace.ramp(like, args.sessions, args.ramp_s)
    except ConfigError as error:
        raise ConfigError(f"--ramp-s: {error}") from None


def parser() -> argparse.ArgumentParser:
    """Of the benchmark as a program."""
    it = argparse.ArgumentParser(prog="latency_benchmark")
    add_arguments(it)
    return it


def command(args: argparse.Namespace) -> str:
    """The options that differ from their defaults, without what is this machine's own business."""
    words = ["latency_benchmark"]
    for name, default in vars(parser().parse_args([])).items():
        value = getattr(args, name)
        if value != default and name not in OWN_BUSINESS:
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words.append("URL" if name == "url" else _shown(value))
    return shlex.join(words)


def _shown(value: object) -> str:
    match value:
        case Path():
            return value.name
        case float():
            return f"{value:g}"
    return str(value)


def _positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _not_negative(text: str) -> float:
    number = _number(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or above")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no number") from None
