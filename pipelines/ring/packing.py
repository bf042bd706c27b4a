"""What goes from rank to rank in one message, and what comes back: tensors, and whether a row could be computed at all.

    from rank to rank     (rows, tokens + SIDE, dim)     tokens; the modulation's six vectors and the time embedding of
                                                         the row's noise level; a vector of status
    back to the first     (rows, numbers + 1)            a row's prediction, or pictures; status

A status other than 0 says that a rank failed at the row: what came of it is of no use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from pipelines.causal_wan.dit import TimeContext

SIDE = 8

FAILED = 1


def put_times(message: Tensor, times: TimeContext) -> None:
    """Writes the noise level's embedding (rows, dim) and modulation (rows, 6, dim) behind the tokens, and status 0."""
    time, modulation = times
    message[:, -SIDE:-2] = modulation
    message[:, -2] = time
    message[:, -1] = 0


def unpacked(message: Tensor) -> tuple[Tensor, TimeContext]:
    """Tokens and noise level: views of the message."""
    x, modulation, time, _ = message.split([message.shape[1] - SIDE, SIDE - 2, 1, 1], dim=1)
    return x, (time[:, 0], modulation)


def status(message: Tensor) -> Tensor:
    """Of each row: a view of the message, of either kind."""
    return message[:, -1, :1] if message.dim() == 3 else message[:, -1:]


def result_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Of the message that brings back what has this shape (rows, ...)."""
    return shape[0], math.prod(shape[1:]) + 1


def returned(message: Tensor, shape: Sequence[int]) -> Tensor:
    """The content of a message that came back: in this shape."""
    return message[:, :-1].reshape(tuple(shape))
