"""Memory of pictures is kept for the next ones, where the C library would hand it back to the system each time."""

from __future__ import annotations

import ctypes

LARGEST = 32 * 2**20
"""Blocks up to this many bytes are kept: a dozen frames of the sizes that are live."""
KEPT = 64 * 2**20
"""Free memory that a process keeps at most, at the end of its heap."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers for mallopt


def keep_large_blocks() -> bool:
    """Has this process keep large blocks that it frees. False where the C library has no such setting.

    By default glibc takes every block of a picture's size from the system and gives it back right after, at the price
    of a page fault for each 4 KiB: a millisecond a frame at 832x480, in the engine alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; no library at all, by system
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))
