"""Pipelines that cannot always be built; a worker process imports them from here."""

from __future__ import annotations

from pathlib import Path

from pipelines.fake import FakePipeline
from streamgen.errors import WeightsError


def broken_while(file: Path) -> FakePipeline:
    """A pipeline, unless `file` exists; counts the failed attempts in it, one line each."""
    if file.exists():
        with file.open("a") as log:
            log.write("tried\n")
        raise WeightsError(f"weights are missing:\n{file.name}")
    return FakePipeline()
