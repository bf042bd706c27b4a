#!/usr/bin/env python
"""A live session while the processes behind it die or hang: how long it freezes, and whether anything is lost or left.

    python scripts/failover.py                       tiny over two CPU ranks, ten times
    python scripts/failover.py --devices 0,1 --preset wan-14b --times 4

Each process of the engine is hit in turn: first all are killed, one after the other, then all are stopped. Exits with 1
where a session was lost, did not come back, or processes, threads, files or memory were left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from pipelines.bench.arguments import command
from streamgen.bench.failover import Failover, Failure, fail
from streamgen.bench.machine import write_report
from streamgen.bench.server import running, serve_command
from streamgen.errors import StreamgenError

START_TIMEOUT_S = 300.0


def main() -> int:
    args = _parser().parse_args()
    try:
        result = asyncio.run(_run(args))
    except StreamgenError as error:
        sys.stderr.write(f"failover: {error}\n")
        return 1
    frozen = [it.frozen_s for it in result.failures]
    print(f"longest freeze: {max(frozen, default=0.0):.2f} s of {len(frozen)}; sessions lost: {result.sessions_lost}")
    print(f"before: {result.before}\nafter:  {result.after}")
    if args.json is not None:
        write_report(args.json, command("failover", ("--json",)), ("torch", "aiortc", "av", "numpy"), result.as_dict())
    faults = result.faults()
    for fault in faults:
        sys.stderr.write(f"failover: {fault}\n")
    return 1 if faults else 0


async def _run(args: argparse.Namespace) -> Failover:
    serve = serve_command(["--preset", args.preset, "--devices", args.devices])
    async with running(serve, START_TIMEOUT_S) as server:
        return await fail(server, args.times, _show)


def _show(failure: Failure) -> None:
    print(f"rank {failure.rank} {failure.blow:<8} frozen for {failure.frozen_s:5.2f} s   {failure.reason}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", help="(default tiny)")
    parser.add_argument("--devices", default="cpu,cpu", help="as serve takes them (default cpu,cpu)")
    parser.add_argument("--times", type=int, default=10, metavar="N", help="processes that are hit (default 10)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
