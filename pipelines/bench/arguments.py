"""What the command lines of measuring programs have in common."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Collection
from pathlib import Path


def size(text: str) -> tuple[int, int]:
    """Width and height of WxH, for argparse."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()) or int(width) % 16 or int(height) % 16:
        raise argparse.ArgumentTypeError(f"a size is like 512x512, in multiples of 16, not {text!r}")
    return int(width), int(height)


def command(program: str, own: Collection[str]) -> str:
    """How `program` was called, for its report, without the paths that are this machine's own business.

    own: options that are left out with their values; of other files the name remains.
    """
    words, hidden = [program], False
    for word in sys.argv[1:]:
        mine = word.split("=")[0] in own
        if not mine and not hidden:
            words.append(word if word.startswith("-") else Path(word).name)
        hidden = mine and "=" not in word
    return shlex.join(words)
