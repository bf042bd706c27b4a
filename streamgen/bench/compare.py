"""Two reports side by side: what changed from A to B, and whether B is worse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamgen.errors import ConfigError

NONE = "-"

FIGURES = (
    ("ttff_ms", ("ttff_ms",)),
    *((f"glass to glass {name}", ("glass_to_glass_ms", name)) for name in ("p50", "p95", "p99", "max")),
    *((name, (name,)) for name in ("jitter_ms", "first_5s_p50", "last_5s_p50", "fps_in", "fps_out")),
    *((name, (name,)) for name in ("frames_sent", "frames_received", "deadline_misses", "misses", "miss_rate")),
    *((name, (name,)) for name in ("unreadable", "foreign")),
    ("rung changes", ("rungs", "changes")),
    *((name, ("admission", name)) for name in ("admitted", "queued", "refused", "waited_s")),
)
"""Name and path in `results.overall`, before those whose names depend on the run."""
NESTED = (("dropped", "drops"), ("stage", "stages_ms"))

P95, MISS_RATE = ("glass_to_glass_ms", "p95"), ("miss_rate",)
LEAST_MISSES = 0.005
"""A miss rate that is higher by less than this is no worse: it may be one frame."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was read."""

    name: str
    overall: Mapping[str, Any]

    def figure(self, path: tuple[str, ...]) -> float | None:
        """The number at `path`; None where this report has none."""
        value: Any = self.overall
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None


def read(file: Path) -> Report:
    """A report of this benchmark, of any version. Raises ConfigError."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{file} is no JSON") from None
    results = found.get("results") if isinstance(found, dict) else None
    if not isinstance(results, dict) or "overall" not in results:
        raise ConfigError(f"{file} is no report of the latency benchmark")
    overall = results["overall"]
    return Report(file.name, overall if isinstance(overall, dict) else {})


def table(one: Report, other: Report) -> str:
    """All figures that at least one of them has: A, B, difference and ratio."""
    rows = [("", one.name, other.name, "difference", "ratio")]
    for name, path in [*FIGURES, *_nested(one, other)]:
        a, b = one.figure(path), other.figure(path)
        if a is not None or b is not None:
            rows.append((name, _number(a), _number(b), *_change(a, b)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join(_line(row, widths) for row in rows)


def worse(one: Report, other: Report, percent: float) -> list[str]:
    """One line where B's p95 or miss rate is higher than A's by more than `percent`; what one lacks is not held."""
    found = []
    for name, path, least in (("p95", P95, 0.0), ("miss rate", MISS_RATE, LEAST_MISSES)):
        a, b = one.figure(path), other.figure(path)
        if a is not None and b is not None and b - a > max(least, a * percent / 100):
            found.append(f"{name} is {_number(b)} in {other.name} and {_number(a)} in {one.name}")
    if one.figure(P95) is not None and other.figure(P95) is None:
        found.append(f"{other.name} has no p95: nothing came back")
    return found


def _nested(one: Report, other: Report) -> list[tuple[str, tuple[str, ...]]]:
    paths: list[tuple[str, tuple[str, ...]]] = []
    for title, name in NESTED:
        inner = [report.overall.get(name) for report in (one, other)]
        keys = dict.fromkeys(key for it in inner if isinstance(it, Mapping) for key in it)
        paths += [(f"{title} {key}", (name, key)) for key in keys]
    return paths


def _change(a: float | None, b: float | None) -> tuple[str, str]:
    if a is None or b is None:
        return NONE, NONE
    difference = f"+{_number(b - a)}" if b > a else _number(b - a)
    return difference, f"{b / a:.2f}" if a else NONE


def _number(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.4g}" if abs(value) < 1 else f"{value:.1f}".removesuffix(".0")


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    name, *numbers = (
        cell.ljust(width) if not place else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([name, *numbers]).rstrip() + "\n"
