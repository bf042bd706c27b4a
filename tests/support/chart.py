"""A test chart of large patches, and what is left of each after a way through codecs and conversions."""

from __future__ import annotations

import numpy as np

from streamgen.core import Pixels

COLUMNS, ROWS = 8, 4
PATCHES: dict[str, tuple[int, int, int]] = {
    # 75 % colour bars
    "white": (191, 191, 191),
    "yellow": (191, 191, 0),
    "cyan": (0, 191, 191),
    "green": (0, 191, 0),
    "magenta": (191, 0, 191),
    "red": (191, 0, 0),
    "blue": (0, 0, 191),
    "black": (0, 0, 0),
    # grey ramp
    **{f"grey {level}": (level, level, level) for level in (16, 48, 80, 112, 144, 176, 208, 255)},
    # saturated primaries and their mixtures
    "full red": (255, 0, 0),
    "full green": (0, 255, 0),
    "full blue": (0, 0, 255),
    "full cyan": (0, 255, 255),
    "full magenta": (255, 0, 255),
    "full yellow": (255, 255, 0),
    "orange": (255, 128, 0),
    "violet": (128, 0, 255),
    # skin, foliage, sky
    "pale skin": (244, 208, 177),
    "light skin": (224, 172, 138),
    "tan skin": (198, 134, 66),
    "brown skin": (141, 85, 36),
    "dark skin": (70, 42, 28),
    "foliage": (87, 108, 67),
    "sky": (98, 122, 157),
    "leaf": (20, 200, 30),
}
GREENS = "green", "full green", "leaf"


def chart(width: int = 320, height: int = 192) -> Pixels:
    """(H, W, 3): the patches in rows of 8, in order."""
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    picture: Pixels = np.array(list(PATCHES.values()), np.uint8)[rows[:, None] * COLUMNS + columns]
    return picture


def means(pixels: Pixels) -> dict[str, np.ndarray]:
    """The mean colour of the middle of each patch."""
    height, width = pixels.shape[0] / ROWS, pixels.shape[1] / COLUMNS
    found = {}
    for number, name in enumerate(PATCHES):
        top, left = number // COLUMNS * height, number % COLUMNS * width
        middle = pixels[
            round(top + 0.25 * height) : round(top + 0.75 * height),
            round(left + 0.25 * width) : round(left + 0.75 * width),
        ]
        found[name] = middle.reshape(-1, 3).astype(float).mean(axis=0)
    return found


def errors(pixels: Pixels) -> dict[str, float]:
    """By how many levels of 255 the mean of each patch is off, in its worst channel."""
    return {name: float(np.abs(mean - PATCHES[name]).max()) for name, mean in means(pixels).items()}
