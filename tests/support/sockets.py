"""Which sockets this process has open (Linux)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


def open_sockets() -> set[str]:
    """By their inode, so that a descriptor that is used again is not taken for the same."""
    names = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            name = str(entry.readlink())
        except FileNotFoundError:
            continue  # the listing's own
        if name.startswith("socket:"):
            names.add(name)
    return names


@asynccontextmanager
async def no_sockets_left() -> AsyncIterator[None]:
    """Every socket that is opened within has to be closed within."""
    before = open_sockets()
    yield
    for _ in range(300):
        left = open_sockets() - before
        if not left:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"sockets left: {left}")
