"""Pipelines that cannot always be built, or do not always work; a worker process imports them from here."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from pipelines.fake import FakeCost, FakePipeline
from pipelines.fake_flow import FakeFlow
from streamgen.core import PipelineSpec
from streamgen.errors import WeightsError


def broken_while(file: Path) -> FakePipeline:
    """A pipeline, unless `file` exists; counts the failed attempts in it, one line each."""
    if file.exists():
        with file.open("a") as log:
            log.write("tried\n")
        raise WeightsError(f"weights are missing:\n{file.name}")
    return FakePipeline()


def standing_while(file: Path, spec: PipelineSpec) -> FakeFlow:
    """A flow whose first stage stands still while `file` exists."""
    return FakeFlow(spec, FakeCost(encode_s=1.0), sleep=partial(_wait, file))


def _wait(file: Path, seconds: float) -> None:
    while file.exists():
        time.sleep(0.005)
