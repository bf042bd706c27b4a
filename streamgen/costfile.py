"""The cost model on disk, one file for each preset and device: a service that starts again knows what it knew."""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamgen.engine import StageTimes
from streamgen.scheduler.cost import STAGES, UNKNOWN, CostModel, Key, Line, Shape

logger = logging.getLogger(__name__)

VERSION = 1

FAR = 1.5
"""Where what is on disk differs from a measurement of now by more than this factor, the device is another one."""


class CostFile:
    """What is known of one preset on one device. Trouble with the disk is logged, and nothing else suffers."""

    def __init__(self, folder: Path, preset: str, device: str) -> None:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{preset}-{device}").strip("-")[:80]
        self.path = folder / f"{name}-{zlib.crc32(f'{preset}/{device}'.encode()):08x}.json"

    def load(self) -> CostModel:
        """What was saved; an empty model where there is nothing, or nothing that can be read."""
        try:
            return load(self.path)
        except FileNotFoundError:
            return UNKNOWN
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            logger.warning("%s cannot be used, costs are measured anew: %s", self.path.name, error)
            return UNKNOWN

    def save(self, model: CostModel) -> None:
        """Replaces what was saved."""
        document = {"version": VERSION, "lines": [_document(key, line) for key, line in model.lines.items()]}
        draft = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(document, indent=1), encoding="utf-8")
            draft.replace(self.path)
        except OSError as error:
            logger.warning("costs cannot be kept in %s: %s", self.path.parent, error)


def load(path: Path) -> CostModel:
    """What was saved there; an empty model where that was in another version.

    Raises OSError, ValueError, KeyError or TypeError for what cannot be read.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["version"] != VERSION:
        return UNKNOWN
    return CostModel(dict(_entry(entry) for entry in document["lines"]))


def begun(known: CostModel, measured: Mapping[Shape, list[StageTimes]]) -> CostModel:
    """The model to begin with: `known` from earlier, corrected by what was `measured` while the engine warmed up.

    What is known is not used where it is far from the measurement: the machine has changed, or is busy otherwise.
    """
    for shape, times in measured.items():
        for time in times:
            costs = known.costs(shape, time.chunks, time.calls, time.rows)
            expected, found = costs.total - costs.transfer, sum(time.stages.values()) - time.transfer
            if expected <= 0 or not 1 / FAR <= found / expected <= FAR:
                known = UNKNOWN
    if known is UNKNOWN:
        return known.seeded((shape, time) for shape, times in measured.items() for time in times)
    for shape, times in measured.items():
        for time in times:
            known = known.observed(shape, time)
    return known


def _document(key: Key, line: Line) -> dict[str, Any]:
    stage, shape = key
    return {
        "stage": stage,
        "frames": shape.frames,
        "width": shape.width,
        "height": shape.height,
        "vae": shape.vae,
        "fixed_s": line.fixed,
        "row_s": line.row,
        "error": line.error,
        "seen": line.seen,
    }


def _entry(entry: Mapping[str, Any]) -> tuple[Key, Line]:
    """Raises KeyError, TypeError, ValueError for what `_document` did not make."""
    if entry["stage"] not in STAGES:
        raise ValueError(f"no stage {entry['stage']!r}")
    shape = Shape(int(entry["frames"]), int(entry["width"]), int(entry["height"]), str(entry["vae"]))
    if min(shape.frames, shape.width, shape.height) < 1 or int(entry["seen"]) < 0:
        raise ValueError("a shape or a count is none")
    fixed, row, error = (float(entry[name]) for name in ("fixed_s", "row_s", "error"))
    if not all(0 <= number < 1e6 for number in (fixed, row, error)):  # also refuses NaN
        raise ValueError("a cost is no time")
    return (entry["stage"], shape), Line(fixed, row, error, int(entry["seen"]))
