"""How the model is to run on this machine: the options that `serve` and `run` have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from streamgen.errors import ConfigError

ATTENTIONS = ("auto", "sdpa", "matmul", "by_head", "xformers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--device, --threads, --attention, --compile, --lora."""
    add = parser.add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads of the model (default: one per core)")
    add(
        "--attention",
        choices=ATTENTIONS,
        default="auto",
        help="kernels to use; xformers comes with the extra gpu (default: auto)",
    )
    add("--compile", action="store_true", dest="compiled", help="compile the model: starts later, runs faster")
    add(
        "--lora",
        action="append",
        default=[],
        dest="loras",
        metavar="FILE[=STRENGTH]",
        help="merge a LoRA file into a Wan preset (may be repeated; STRENGTH is 1 where not given)",
    )


def of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was chosen, as keywords of pipelines.build. Raises ConfigError."""
    if arguments.threads < 0:
        raise ConfigError("--threads must not be negative")
    return {
        "device": arguments.device,
        "threads": arguments.threads,
        "attention": arguments.attention,
        "compiled": arguments.compiled,
        "loras": tuple(parse_lora(text) for text in arguments.loras),
    }


def chosen(arguments: argparse.Namespace) -> list[str]:
    """Flags of those that were set to something else than their defaults."""
    flags = {"device": "--device", "threads": "--threads", "attention": "--attention", "compiled": "--compile"}
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return [
        flags.get(name, "--lora")
        for name, default in vars(parser.parse_args([])).items()
        if getattr(arguments, name) != default
    ]


def port_range(text: str) -> tuple[int, int]:
    """First and last of FIRST-LAST, for options that take such. Raises argparse.ArgumentTypeError."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of ports such as 50000-50100")
    return int(first), int(last)


def parse_lora(text: str) -> tuple[Path, float]:
    """File and strength of FILE[=STRENGTH]. Raises ConfigError."""
    if whole := _file(text):
        return whole, 1.0
    name, equals, number = text.rpartition("=")
    if not equals:
        raise ConfigError(f"--lora {text[:200]}: there is no such file")
    try:
        strength = float(number)
    except ValueError:
        raise ConfigError(f"--lora takes FILE or FILE=STRENGTH, and {number[:40]!r} is no number") from None
    if not -10 <= strength <= 10:
        raise ConfigError(f"--lora takes a strength from -10 to 10, not {number[:40]}")
    if found := _file(name):
        return found, strength
    raise ConfigError(f"--lora {name[:200]}: there is no such file")


def _file(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path.resolve() if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # no such user, a name too long, a zero byte
        return None
