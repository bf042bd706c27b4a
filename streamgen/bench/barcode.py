"""A barcode in a picture's top strip: which frame this is and when it was sent, told by the picture itself.

Black and white cells of at least 8 x 8 pixels, which are the blocks that video codecs keep best: a cell is one DC
coefficient. Two rows of 24 cells, row after row, most significant bit first, white = 1:

    | source 4 | counter 16 | milliseconds 20 | CRC-8 |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

STRIP_ROWS = 16
"""Height of the strip that the service copies from input to output where `stamp` is set."""

COLUMNS, ROWS = 24, 2
CELL = STRIP_ROWS // ROWS
MIN_WIDTH = COLUMNS * CELL

SOURCE_BITS, COUNTER_BITS, CLOCK_BITS, CRC_BITS = 4, 16, 20, 8
CLOCK_RANGE_MS = 1 << CLOCK_BITS  # 17 minutes
COUNTER_RANGE = 1 << COUNTER_BITS
SOURCES = 1 << SOURCE_BITS

CONTRAST = 64  # least distance of black and white in grey levels; what comes back is 16..235 at best
CLARITY = 0.3  # a cell in the middle third between black and white is neither


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a barcode says. Numbers wrap at their range."""

    source: int
    counter: int
    clock_ms: int

    def bits(self) -> int:
        """The number that is drawn, checksum included."""
        payload = self.source % SOURCES
        payload = payload << COUNTER_BITS | self.counter % COUNTER_RANGE
        payload = payload << CLOCK_BITS | self.clock_ms % CLOCK_RANGE_MS
        return payload << CRC_BITS | _crc8(payload)


class Barcode:
    """Draws and reads stamps in pictures that are sent `width` pixels wide. Raises ValueError below 192 pixels."""

    def __init__(self, width: int) -> None:
        if width < MIN_WIDTH:
            raise ValueError(f"a barcode needs pictures at least {MIN_WIDTH} pixels wide, not {width}")
        # Whole blocks of 8 pixels, as many as fit; as shares of the width, so that a scaled picture reads as well.
        self._cell_width = width // COLUMNS // CELL * CELL
        self._share = self._cell_width / width

    def draw(self, pixels: Pixels, stamp: Stamp) -> None:
        """Into the top strip of `pixels` (H, W, 3), in place."""
        bits = np.frombuffer(stamp.bits().to_bytes(COLUMNS * ROWS // 8, "big"), np.uint8)
        cells = np.unpackbits(bits).reshape(ROWS, COLUMNS) * 255
        code = cells.repeat(CELL, axis=0).repeat(self._cell_width, axis=1)
        pixels[:STRIP_ROWS, : code.shape[1]] = code[:, :, None]

    def read(self, pixels: Pixels) -> Stamp | None:
        """The stamp in `pixels` (H, W, 3); None where there is none, or it is not clear."""
        cells = self._cells(pixels)
        if cells is None:
            return None
        black, white = float(cells.min()), float(cells.max())
        if white - black < CONTRAST:
            return None
        levels = (cells - black) / (white - black)
        if np.any((levels > 0.5 - CLARITY / 2) & (levels < 0.5 + CLARITY / 2)):
            return None
        number = int.from_bytes(np.packbits(levels > 0.5).tobytes(), "big")
        payload, checksum = number >> CRC_BITS, number & 0xFF
        if _crc8(payload) != checksum:
            return None
        return Stamp(
            source=payload >> (COUNTER_BITS + CLOCK_BITS),
            counter=payload >> CLOCK_BITS & (COUNTER_RANGE - 1),
            clock_ms=payload & (CLOCK_RANGE_MS - 1),
        )

    def _cells(self, pixels: Pixels) -> NDArray[np.float64] | None:
        """Mean grey level of every cell's inside, row after row: its rim may have been blurred into the next."""
        width = pixels.shape[1] * self._share
        if pixels.shape[0] < STRIP_ROWS or width < 4:
            return None
        strip = pixels[:STRIP_ROWS].mean(axis=2)
        rim = CELL // 4
        rows = [strip[row * CELL + rim : (row + 1) * CELL - rim].mean(axis=0) for row in range(ROWS)]
        edges = [(round((column + 0.25) * width), round((column + 0.75) * width)) for column in range(COLUMNS)]
        return np.array([row[start:end].mean() for row in rows for start, end in edges])


def _crc8(payload: int) -> int:
    """CRC-8 (polynomial 0x07, start 0xFF: all black is no stamp) over the payload's 40 bits."""
    crc = 0xFF
    for byte in payload.to_bytes(5, "big"):
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc
