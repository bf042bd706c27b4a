"""`streamgen serve` with FakePipeline instead of a preset: python -m tests.support.fake_server KIND."""

from __future__ import annotations

import sys
import time

from pipelines.fake import FakeCost, FakePipeline, Fault
from streamgen import app, cli
from streamgen.config import Config
from streamgen.errors import StreamgenError, WeightsError


def slow_start() -> FakePipeline:
    time.sleep(1.0)
    return working()


def working() -> FakePipeline:
    faults = {"kill": Fault("encode", "exit"), "raise": Fault("encode")}
    return FakePipeline(cost=FakeCost(step_s=0.01), faults=faults)


def broken() -> FakePipeline:
    raise WeightsError("weights are missing: dit.safetensors;\nrun scripts/train_tiny.py")


FACTORIES = {factory.__name__: factory for factory in (slow_start, working, broken)}


def main(kind: str) -> int:
    config = Config(port=0)
    cli.log_to_stderr(verbose=False)
    try:
        app.serve(config, lambda url: print(f"ready: {url}", flush=True), FACTORIES[kind])
    except StreamgenError as error:
        cli.complain(error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
