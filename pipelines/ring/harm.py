"""What fails on a rank costs the streams that it was for their use, and nobody else anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pipelines.ring.packing import FAILED, status
from pipelines.ring.stage import Stage
from streamgen.errors import DeviceLostError

_SHOWN = 300


@contextmanager
def harmless(stage: Stage, streams: tuple[int, ...], *messages: Tensor) -> Iterator[None]:
    """What fails within is written into the messages that go on all the same, and why into the next report.

    Raises DeviceLostError where it is the device that is broken, and not the work.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        if stage.device.type == "cuda":
            _check(stage.device)
        for message in messages:
            status(message).fill_(FAILED)
        text = " ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN]
        for stream in streams:
            stage.watch.failed(stream, text)


def _check(device: torch.device) -> None:
    """Waits for what is computed, and for nothing else: receives are under way on the device that end when others send,
    and some of them when what failed here is sent."""
    try:
        torch.cuda.current_stream(device).synchronize()
    except RuntimeError as error:
        text = " ".join(str(error).split())[:_SHOWN]
        raise DeviceLostError(f"the device {device} is broken: {text}") from error
