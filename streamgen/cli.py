"""Command line. Exit status: 0 done, 1 failed, 2 wrong usage. Errors are one line on stderr that says what to do."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from streamgen import __version__, choices
from streamgen.cluster import options
from streamgen.cluster.address import reach
from streamgen.config import Config, cost_folder
from streamgen.errors import ConfigError, StreamgenError
from streamgen.logs import log_to_stderr

DONE, FAILED, WRONG_USAGE = 0, 1, 2

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_DEFAULTS = {field.name: field.default for field in fields(Config)}


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Runs one command, `argv` without the program's name; the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser(words, environ).parse_args(words)
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except ConfigError as error:
        complain(error.message)
        return WRONG_USAGE
    except StreamgenError as error:
        complain(error.message)
        return FAILED
    except KeyboardInterrupt:
        return 130


class MissingExtraError(StreamgenError):
    """A part of streamgen that is not installed."""

    code = "missing_extra"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exits with status 2."""
        complain(f"{message}; see {self.prog} --help")
        raise SystemExit(WRONG_USAGE)


def _parser(words: Sequence[str], environ: Mapping[str, str]) -> Parser:
    parser = Parser(prog="streamgen", description="Live video restyled by video diffusion.")
    parser.add_argument("--version", action="version", version=f"streamgen {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = commands.add_parser("serve", help="run the service: the page, the API, the engine")
    _add_serve_arguments(serve, environ)
    serve.set_defaults(run=_serve)
    # The next have their arguments in modules that a light installation cannot import: only the one asked for is.
    command = words[0] if words else ""
    for name, module, what in _PARTS:
        subparser = commands.add_parser(name, help=what)
        if command == name:
            implementation = _load(module)
            implementation.add_arguments(subparser)
            if name != "models":  # which has commands of its own
                subparser.set_defaults(run=implementation.run)
    doctor = commands.add_parser("doctor", help="what this machine can run, and what is missing")
    _add_doctor_arguments(doctor, environ)
    doctor.set_defaults(run=_doctor)
    return parser


_PARTS = (
    ("run", "streamgen.offline", "restyle a video file"),
    ("models", "streamgen.models", "what can be run; download and check its weights"),
    ("bench", "streamgen.bench.cli", "measure latency end to end, without a browser"),
)


def _add_serve_arguments(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    add = parser.add_argument
    add("--preset", default=_DEFAULTS["preset"], help="what to run (default: %(default)s; see streamgen models list)")
    add("--host", default=_DEFAULTS["host"], help="address to listen on (default: %(default)s; 0.0.0.0 for all)")
    add("--port", type=int, default=_DEFAULTS["port"], help="port to listen on (default: %(default)s; 0: any free one)")
    choices.add_arguments(parser)
    add(
        "--devices",
        type=_devices,
        default=_DEFAULTS["devices"],
        metavar="A,B,...",
        help="devices that run the model together, in place of --device: N or cuda:N for a GPU, cpu for a process",
    )
    add(
        "--blocks",
        type=_blocks,
        default=_DEFAULTS["blocks"],
        metavar="A,B,...",
        help="how many of the transformer's blocks each of --devices has, for good (default: they move as it is best)",
    )
    add(
        "--max-sessions",
        type=int,
        default=_DEFAULTS["max_sessions"],
        metavar="N",
        help="sessions at once (default: %(default)s)",
    )
    add(
        "--max-queue",
        type=int,
        default=_DEFAULTS["max_queue"],
        metavar="N",
        help="sessions that may wait for room (default: %(default)s)",
    )
    add(
        "--max-viewers",
        type=int,
        default=_DEFAULTS["max_viewers"],
        metavar="N",
        help="who may watch one session, beside its client (default: %(default)s)",
    )
    add(
        "--max-jobs",
        type=int,
        default=_DEFAULTS["max_jobs"],
        metavar="N",
        help="video files to restyle at once, beside the sessions (default: %(default)s; 0: none)",
    )
    add(
        "--max-upload-mb",
        type=int,
        default=_DEFAULTS["max_upload_mb"],
        metavar="MB",
        help="largest video file to restyle (default: %(default)s)",
    )
    add(
        "--token",
        default=environ.get("STREAMGEN_TOKEN") or None,
        help="ask API requests for this bearer token (default: $STREAMGEN_TOKEN; none: open)",
    )
    add(
        "--allow-origin",
        action="append",
        default=[],
        dest="allowed_origins",
        metavar="ORIGIN",
        help="let pages of this origin use the API, such as https://example.org (may be repeated)",
    )
    add(
        "--ice-server",
        action="append",
        default=[],
        dest="ice_servers",
        metavar="URL",
        help="stun: or turn: server for service and clients (may be repeated)",
    )
    add(
        "--turn-secret",
        default=environ.get("STREAMGEN_TURN_SECRET") or None,
        metavar="SECRET",
        help="make credentials for turn: servers from this shared secret (default: $STREAMGEN_TURN_SECRET)",
    )
    add(
        "--udp-ports",
        type=choices.port_range,
        default=_DEFAULTS["udp_ports"],
        metavar="FIRST-LAST",
        help="UDP ports for media, such as 50000-50100 (default: any)",
    )
    add(
        "--cost-folder",
        type=Path,
        default=cost_folder(environ),
        metavar="DIR",
        help="where measured costs are kept for the next start (default: %(default)s)",
    )
    add("--loopback", action="store_true", help="offer 127.0.0.1 and ::1 for media too, to clients on this machine")
    for name, what in _TIMEOUTS.items():
        flag = f"--{name.replace('_', '-')}"
        add(flag, type=float, default=_DEFAULTS[name], metavar="S", help=f"{what} (default: %(default)s)")
    add("-v", "--verbose", action="store_true", help="log what happens, not only what goes wrong")
    options.add_arguments(parser)


def _blocks(text: str) -> tuple[int, ...]:
    counts = [count.strip() for count in text.split(",")]
    if not all(count.isdecimal() for count in counts):
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers between commas such as 3,2,1")
    return tuple(map(int, counts))


def _devices(text: str) -> tuple[str, ...]:
    """What is no device is found by Config."""
    names = (name.strip() for name in text.split(","))
    return tuple(f"cuda:{int(name)}" if name.isdecimal() else name for name in names)


_TIMEOUTS = {
    "connect_timeout_s": "seconds until a client's media connection must be up",
    "idle_timeout_s": "seconds without a frame after which a session is closed",
    "grace_s": "seconds for which a client whose connection was lost may come back",
    "keep_jobs_s": "seconds for which restyled video files are kept",
    "job_timeout_s": "seconds after which a silent engine worker is restarted",
    "start_timeout_s": "seconds that the engine may take to start",
}


def _serve(arguments: argparse.Namespace) -> int:
    config = Config(
        preset=arguments.preset,
        host=arguments.host,
        port=arguments.port,
        max_sessions=arguments.max_sessions,
        max_queue=arguments.max_queue,
        max_viewers=arguments.max_viewers,
        max_jobs=arguments.max_jobs,
        max_upload_mb=arguments.max_upload_mb,
        keep_jobs_s=arguments.keep_jobs_s,
        token=arguments.token,
        allowed_origins=tuple(arguments.allowed_origins),
        ice_servers=tuple(arguments.ice_servers),
        turn_secret=arguments.turn_secret,
        udp_ports=arguments.udp_ports,
        loopback=arguments.loopback,
        connect_timeout_s=arguments.connect_timeout_s,
        idle_timeout_s=arguments.idle_timeout_s,
        grace_s=arguments.grace_s,
        job_timeout_s=arguments.job_timeout_s,
        start_timeout_s=arguments.start_timeout_s,
        cost_folder=arguments.cost_folder,
        devices=arguments.devices,
        blocks=arguments.blocks,
        **choices.of(arguments),
    )
    log_to_stderr(verbose=arguments.verbose)
    plan = options.of(arguments)
    where = config.host if plan is None else "the machines of the fleet"
    if config.token is None and (plan is not None or config.host not in LOOPBACK):
        print(f"note: whoever can reach {where} can use this service; set --token", file=sys.stderr)
    if plan is None:
        _load("streamgen.app").serve(config, _announce)
    else:
        _serve_fleet(config, plan)
    return DONE


def _serve_fleet(config: Config, plan: options.Plan) -> None:
    if importlib.util.find_spec("ray") is None:
        raise _missing("ray", "cluster")
    plan = replace(plan, address=reach(plan.address))  # before Ray is imported
    nodes = _load("streamgen.cluster.actors").RayNodes
    _load("streamgen.cluster.run").serve(config, plan, nodes.open, _announce)


def _announce(url: str) -> None:
    print(f"ready: {url}", flush=True)


def _add_doctor_arguments(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    add = parser.add_argument
    add("--gpus", metavar="LIST", help="plan for these GPUs instead of this machine's, such as 4x80 (GB) or 2xH100,L4")
    add("--preset", help="plan for this preset alone")
    add("--sessions", type=int, default=1, metavar="N", help="plan for so many at once (default: %(default)s)")
    add("--fps", type=float, help="of each session (default: the preset's)")
    add("--steps", type=int, help="of each chunk (default: the preset's)")
    add("--slo-ms", type=float, metavar="MS", help="latency budget of each session (default: the preset's)")
    parser.set_defaults(cost_folder=cost_folder(environ))


def _doctor(arguments: argparse.Namespace) -> int:
    doctor = _load("streamgen.doctor")
    if arguments.gpus is not None:
        for finding in _load("streamgen.planning").of_others(arguments):
            _tell(finding)
        return DONE
    try:
        needs, placements = _load("streamgen.models").needs(), _load("streamgen.planning").of_this_machine(arguments)
    except MissingExtraError:  # of what lists the presets: the doctor finds out by itself
        needs, placements = (), doctor.nowhere
    missing = 0
    for finding in doctor.examine(needs, placements):
        _tell(finding)
        missing += finding.level == "missing"
    print("This machine can run streamgen." if not missing else "Something is missing; see above.")
    return FAILED if missing else DONE


def _tell(finding: Any) -> None:
    print(f"{finding.level:<8}{finding.text}")


def _load(module: str) -> ModuleType:
    """A part of streamgen that needs an extra of the package. Raises MissingExtraError."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("streamgen", "pipelines"):
            raise
        raise _missing(str(error.name), "serve") from None


def _missing(module: str, extra: str) -> MissingExtraError:
    return MissingExtraError(f"{module} is missing; install it with: pip install 'streamgen[{extra}]'")


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
