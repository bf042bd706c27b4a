"""What fails on a rank costs the streams that it was for their use, and nobody else anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pipelines.ring.packing import FAILED, status
from pipelines.ring.stage import Stage

_SHOWN = 300


@contextmanager
def harmless(stage: Stage, streams: tuple[int, ...], *messages: Tensor) -> Iterator[None]:
    """What fails within is written into the messages that go on all the same, and why into the next report.

    Raises where it is the device that is broken, and not the work.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        if stage.device.type == "cuda":
            torch.cuda.synchronize(stage.device)
        for message in messages:
            status(message).fill_(FAILED)
        text = " ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN]
        for stream in streams:
            stage.watch.failed(stream, text)
