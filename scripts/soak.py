#!/usr/bin/env python
"""Sessions for a long time against a server of its own: nothing may grow, slow down, or be left behind.

    python scripts/soak.py                              three sessions for half an hour, without a model
    python scripts/soak.py --preset tiny --minutes 600

Exits with 1 where memory or latency grew, or threads, sockets, files or shared memory are left when all have gone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tqdm import tqdm

from pipelines.bench.arguments import command
from streamgen.bench.footprint import Footprint
from streamgen.bench.latency import Settings
from streamgen.bench.machine import write_report
from streamgen.bench.server import running, serve_command
from streamgen.bench.soak import Soak, soak
from streamgen.errors import StreamgenError

START_TIMEOUT_S = 300.0


def main() -> int:
    args = _parser().parse_args()
    try:
        result = asyncio.run(_run(args))
    except StreamgenError as error:
        sys.stderr.write(f"soak: {error}\n")
        return 1
    early, late = result.memory()
    print(f"memory: {early:.1f} MiB in the second quarter, {late:.1f} in the last")
    print(f"before: {result.before}\nafter:  {result.after}")
    overall = result.outcome.overall
    if overall is not None:
        print(
            f"latency (ms): {overall.glass_to_glass_ms}; {overall.first_5s_p50} at first, {overall.last_5s_p50} at last"
        )
        print(f"frames: {overall.frames_sent} sent, {overall.frames_received} received, dropped {overall.drops}")
    if args.json is not None:
        write_report(args.json, command("soak", ("--json",)), ("aiortc", "av", "numpy"), result.as_dict())
    faults = result.faults()
    for fault in faults:
        sys.stderr.write(f"soak: {fault}\n")
    return 1 if faults else 0


async def _run(args: argparse.Namespace) -> Soak:
    settings = Settings(
        seconds=60 * args.minutes, fps=args.fps, width=args.width, height=args.height, sessions=args.sessions
    )
    serve = serve_command(["--preset", args.preset, "--max-sessions", str(args.sessions)])
    async with running(serve, START_TIMEOUT_S) as server:
        with tqdm(total=round(settings.seconds / args.interval), unit="sample", disable=None) as bar:

            def show(seen: Footprint) -> None:
                bar.update()
                bar.set_postfix_str(f"{seen.mib:.0f} MiB, {seen.threads} threads, {seen.sockets} sockets")

            return await soak(server, settings, args.interval, show)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="passthrough", help="(default passthrough)")
    parser.add_argument("--minutes", type=float, default=30.0, help="(default 30)")
    parser.add_argument("--sessions", type=int, default=3, metavar="N", help="at once (default 3)")
    parser.add_argument("--fps", type=float, default=30.0, help="(default 30)")
    parser.add_argument("--width", type=int, default=320, help="(default 320)")
    parser.add_argument("--height", type=int, default=192, help="(default 192)")
    parser.add_argument("--interval", type=float, default=10.0, metavar="S", help="between looks (default 10)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
