"""How a client treats its session."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamgen.client.events import Event


@dataclass(frozen=True, slots=True)
class Options:
    """How a client treats its session; nothing of this is the service's business."""

    buffer: int = 1
    """Results kept for a reader that is slow; the newest win."""
    tail_s: float = 2.0
    """`frames` ends when the source has ended and no result came for this long."""
    connect_timeout_s: float = 15.0
    """Until the media connection is up, in each attempt. A session that waits for room has one: it may wait for long.
    """
    patience_s: float = 0.0
    """How long to ask again where the service refuses for want of room."""
    chance: Callable[[], float] = random.random
    """Numbers in 0..1 that spread out when to ask again."""
    update_timeout_s: float = 15.0
    reconnect_s: float = 20.0
    """How long a lost connection is tried to be made anew before the session counts as lost; 0 for not at all."""
    ice_servers: Sequence[str] = ()
    codec: str = ""
    """The only one to be offered; all where empty."""
    on_event: Callable[[Event], None] | None = None
