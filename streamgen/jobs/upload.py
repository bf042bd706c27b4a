"""A file that a client sends as the body of a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from streamgen.errors import TooLargeError, TooSlowError

BLOCK_BYTES = 1 << 20
"""What is written to disk at once."""

PATIENCE_S = 20.0
"""A body may be as late as this, at any time of its coming, measured by LEAST_RATE."""

LEAST_RATE = 16_000
"""Bytes a second: who sends more slowly takes a place that others could have."""


async def receive(
    body: AsyncIterator[bytes], announced: int | None, most: int, append: Callable[[bytes], Awaitable[None]]
) -> int:
    """Appends the whole body, block by block; its size. `announced` and `most` are sizes too (bytes).

    Raises TooLargeError, TooSlowError, and what `body` and `append` raise.
    """
    if announced is not None and announced > most:
        raise _too_large(most)
    loop = asyncio.get_running_loop()
    began, size = loop.time(), 0
    block = bytearray()
    while (piece := await _next(body, began + PATIENCE_S + size / LEAST_RATE)) is not None:
        size += len(piece)
        if size > most:
            raise _too_large(most)
        block += piece
        if len(block) >= BLOCK_BYTES:
            await append(bytes(block))
            block.clear()
    if block:
        await append(bytes(block))
    return size


async def _next(body: AsyncIterator[bytes], until: float) -> bytes | None:
    try:
        async with asyncio.timeout_at(until):
            return await anext(body, None)
    except TimeoutError:
        raise TooSlowError("the file comes too slowly; try again on a better connection") from None


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(f"the file is larger than this service takes, {most / 1e6:g} MB; see --max-upload-mb")
