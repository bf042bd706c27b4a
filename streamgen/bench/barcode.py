"""A barcode in a picture's top strip: which frame this is and when it was sent, told by the picture itself.

Black and white cells of at least 8 x 8 pixels, which are the blocks that video codecs keep best: a cell is one DC
coefficient. Two rows of 24 cells, row after row, most significant bit first, white = 1:

    | source 4 | counter 16 | milliseconds 20 | CRC-8 |

Pictures too narrow for that have two rows of 16 cells, whose numbers wrap sooner:

    | source 4 | counter 10 | milliseconds 10 | CRC-8 |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

STRIP_ROWS = 16
"""Height of the strip that the service copies from input to output where `stamp` is set."""

ROWS = 2
CELL = STRIP_ROWS // ROWS
LEAST_CELL = 4
"""Pixels of a cell's side below which nothing is read."""

SOURCE_BITS, CRC_BITS = 4, 8
SOURCES = 1 << SOURCE_BITS

CONTRAST = 64  # least distance of black and white in grey levels; what comes back is 16..235 at best
CLARITY = 0.3  # a cell in the middle third between black and white is neither
BLACK, WHITE = 16, 235  # in the luma of video


@dataclass(frozen=True, slots=True)
class Layout:
    """How many bits a stamp's numbers have."""

    columns: int
    counter_bits: int
    clock_bits: int

    @property
    def width(self) -> int:
        """Least width in pixels of a picture that it fits in."""
        return self.columns * CELL

    @property
    def counter_range(self) -> int:
        """Frames after which the counter begins anew."""
        return 1 << self.counter_bits

    @property
    def clock_range_ms(self) -> int:
        """Milliseconds after which the clock begins anew."""
        return 1 << self.clock_bits


WIDE = Layout(24, 16, 20)  # wraps after an hour at 16 fps, and after 17 minutes
NARROW = Layout(16, 10, 10)  # after a minute, and after a second: enough for a result that is some seconds late
MIN_WIDTH = NARROW.width


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a barcode says. Numbers wrap at their range."""

    source: int
    counter: int
    clock_ms: int

    def bits(self, layout: Layout = WIDE) -> int:
        """The number that is drawn, checksum included."""
        payload = self.source % SOURCES
        payload = payload << layout.counter_bits | self.counter % layout.counter_range
        payload = payload << layout.clock_bits | self.clock_ms % layout.clock_range_ms
        return payload << CRC_BITS | _crc8(payload, _payload_bytes(layout))


class Barcode:
    """Draws and reads stamps in pictures that are sent `width` pixels wide. Raises ValueError below 128 pixels.

    Where `height` is given too, results of any other height are taken for the picture sent, scaled: a service under
    load may send them smaller. Without it the strip is taken to be STRIP_ROWS high.
    """

    def __init__(self, width: int, height: int | None = None) -> None:
        if width < MIN_WIDTH:
            raise ValueError(f"a barcode needs pictures at least {MIN_WIDTH} pixels wide, not {width}")
        self.layout = WIDE if width >= WIDE.width else NARROW
        # Whole blocks of 8 pixels, as many as fit; as shares of the width, so that a scaled picture reads as well.
        self._cell_width = width // self.layout.columns // CELL * CELL
        self._share = self._cell_width / width
        self._height = height

    @property
    def strip_width(self) -> int:
        """Pixels from the left that are drawn on."""
        return self._cell_width * self.layout.columns

    def draw(self, pixels: Pixels, stamp: Stamp) -> None:
        """Into the top strip of `pixels` (H, W, 3), in place."""
        pixels[:STRIP_ROWS, : self.strip_width] = self._code(stamp, 0, 255)[:, :, None]

    def draw_luma(self, luma: Pixels, stamp: Stamp) -> None:
        """Into the top strip of `luma` (H, W), in limited range, in place. Chroma is to be 128 there."""
        luma[:STRIP_ROWS, : self.strip_width] = self._code(stamp, BLACK, WHITE)

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
        if _crc8(payload, _payload_bytes(self.layout)) != checksum:
            return None
        return Stamp(
            source=payload >> (self.layout.counter_bits + self.layout.clock_bits),
            counter=payload >> self.layout.clock_bits & (self.layout.counter_range - 1),
            clock_ms=payload & (self.layout.clock_range_ms - 1),
        )

    def _code(self, stamp: Stamp, black: int, white: int) -> Pixels:
        """The strip, (STRIP_ROWS, strip_width)."""
        number = stamp.bits(self.layout).to_bytes(self.layout.columns * ROWS // 8, "big")
        bits = np.unpackbits(np.frombuffer(number, np.uint8)).reshape(ROWS, self.layout.columns)
        cells = np.where(bits, np.uint8(white), np.uint8(black))
        return cells.repeat(CELL, axis=0).repeat(self._cell_width, axis=1)

    def _cells(self, pixels: Pixels) -> NDArray[np.float64] | None:
        """Mean grey level of every cell's inside, row after row: its rim may have been blurred into the next."""
        height, width = pixels.shape[0], pixels.shape[1] * self._share
        cell = CELL if self._height is None else CELL * height / self._height
        if height < ROWS * cell or min(cell, width) < LEAST_CELL:
            return None
        columns = _insides(self.layout.columns, width)
        rows = []
        for top, bottom in _insides(ROWS, cell).reshape(ROWS, 2):
            lines = pixels[top:bottom].sum(axis=(0, 2), dtype=np.int64)
            # Sums from each edge to the next: every other one is a cell's inside.
            rows.append(np.add.reduceat(lines, columns)[::2] / (3.0 * (bottom - top)))
        return np.concatenate(rows) / np.tile(columns[1::2] - columns[::2], ROWS)


def _insides(count: int, size: float) -> NDArray[np.intp]:
    """Start and end of the middle half of `count` cells of `size` pixels, one after the other."""
    quarters = np.arange(count)[:, None] + np.array([0.25, 0.75])
    return np.asarray(np.rint(quarters * size).ravel(), dtype=np.intp)


def _payload_bytes(layout: Layout) -> int:
    return layout.columns * ROWS // 8 - 1


def _crc8(payload: int, size: int) -> int:
    """CRC-8 (polynomial 0x07, start 0xFF: all black is no stamp) over the payload's `size` bytes."""
    crc = 0xFF
    for byte in payload.to_bytes(size, "big"):
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc
