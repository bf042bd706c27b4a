"""Plots as inline SVG: a few shapes, drawn by ourselves, so that a report is one file that needs nothing else.

Colours are CSS variables of the page that holds them (page.py): --ink, --muted, --grid, --line, --band, --limit, --wait
and --stage-0 ... --stage-8. All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 26
"""Pixels around what is drawn, for the axes' labels."""
MOST_POINTS = 500
"""Of a line; of more samples the median and the span of each of so many slices are drawn."""
SLICES = 250
LADDER_HEIGHT, LADDER_GAP = 30, 14
BAR_HEIGHT, BAR_PITCH, BAR_LEFT = 16, 26, 64

Floats = NDArray[np.float64]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Latencies:
    """One session's plot. Times in s, since the run's start; latencies in ms."""

    times: Floats
    latencies: Floats
    slo_ms: float | None = None
    waited: tuple[float, float] | None = None
    """From when to when it had to wait for room."""
    rungs: Sequence[tuple[float, int]] = ()
    """(from when on, which rung); drawn where there is more than one."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From figures (low to high) to pixels (start to end)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Figures outside lie on the edge."""
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)


def ticks(high: float, about: int = 5) -> list[float]:
    """Round numbers from 0 to at most `high`."""
    if high <= 0:
        return [0.0]
    step = 10 ** math.floor(math.log10(high / about))
    step *= next(factor for factor in (1, 2, 5, 10) if high / (step * factor) <= about)
    return [number * step for number in range(int(high / step + 1e-9) + 1)]


def over_time(it: Latencies, most_ms: float, seconds: float, size: tuple[int, int], *, ladder: int = 0) -> str:
    """Latency over time with the SLO, and below it the rung; `ladder` rungs there are, 0 for no such strip."""
    width, height = size
    plot_end = height - BOTTOM - (LADDER_HEIGHT + LADDER_GAP if ladder else 0)
    x, y = Scale(0, seconds, LEFT, width - RIGHT), Scale(0, most_ms, plot_end, TOP)
    parts = [*_across(y, width, "ms"), *_along(x, plot_end, "s", labels=not ladder)]
    if it.waited is not None:
        start, end = (x(time) for time in it.waited)
        parts.append(_rect(start, TOP, end - start, plot_end - TOP, "wait", "waits for room"))
        if end - start > 70:
            parts.append(_text((start + end) / 2, (TOP + plot_end) / 2, "waits for room", "middle"))
    parts += _samples(it, x, y)
    if it.slo_ms is not None:
        parts += _limit_across(it.slo_ms, y, width)
    if ladder:
        parts += _ladder(it, x, ladder, plot_end + LADDER_GAP)
        parts += _along(x, plot_end + LADDER_GAP + LADDER_HEIGHT, "s", grid=False)
    return _svg(width, height, parts, "latency over time")


def distribution(each: Iterable[Floats], together: Floats, most_ms: float, slo_ms: float | None, size: Point) -> str:
    """Share of results that took at most so long: thin for each session, thick for all of them."""
    width, height = size
    x, y = Scale(0, most_ms, LEFT, width - RIGHT), Scale(0, 100, height - BOTTOM, TOP)
    parts = [*_across(y, width, "%"), *_along(x, height - BOTTOM, "ms")]
    parts += [_path(_cumulated(latencies, x, y), "each") for latencies in each if latencies.size]
    if together.size:
        parts.append(_path(_cumulated(together, x, y), "line"))
    if slo_ms is not None and slo_ms <= most_ms:
        parts.append(_path([(x(slo_ms), TOP), (x(slo_ms), height - BOTTOM)], "limit"))
        parts.append(_text(x(slo_ms) - 4, height - BOTTOM - 6, f"SLO {slo_ms:g} ms", "end", "limit-text"))
    return _svg(width, height, parts, "distribution of latency")


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], names: Sequence[str], width: int) -> str:
    """One stacked bar a row, of the parts `names` (ms), in that order and each in its own colour."""
    height = TOP + BAR_PITCH * len(rows) + BOTTOM
    longest = max((sum(parts.values()) for _, parts in rows), default=1.0) or 1.0
    x = Scale(0, longest, BAR_LEFT, width - RIGHT - 52)
    drawn = _along(x, height - BOTTOM, "ms")
    for number, (label, stages) in enumerate(rows):
        top, start = TOP + number * BAR_PITCH + (BAR_PITCH - BAR_HEIGHT) / 2, 0.0
        drawn.append(_text(BAR_LEFT - 8, top + BAR_HEIGHT - 4, label, "end"))
        for place, name in enumerate(names):
            part = stages.get(name, 0.0)
            if part > 0:
                left, right = x(start), x(start + part)
                drawn.append(
                    _rect(left, top, max(0.5, right - left - 1), BAR_HEIGHT, f"stage-{place}", _told(name, part))
                )
            start += part
        drawn.append(_text(x(start) + 6, top + BAR_HEIGHT - 4, f"{start:.0f} ms"))
    return _svg(width, height, drawn, "where the time goes")


def _told(name: str, part: float) -> str:
    return f"{name} {part:.1f} ms"


def _samples(it: Latencies, x: Scale, y: Scale) -> list[str]:
    """The line of a session's latencies, or, of many, the median of each slice of time over its span."""
    if not it.times.size:
        return []
    if it.times.size <= MOST_POINTS:
        return [_path([(x(time), y(value)) for time, value in zip(it.times, it.latencies, strict=True)], "line")]
    slices = np.linspace(it.times[0], it.times[-1], SLICES + 1)[1:-1]
    parts = np.split(np.arange(it.times.size), np.searchsorted(it.times, slices))
    taken = [(x(float(it.times[part].mean())), it.latencies[part]) for part in parts if part.size]
    upper = [(at, y(float(values.max()))) for at, values in taken]
    lower = [(at, y(float(values.min()))) for at, values in taken]
    middle = [(at, y(float(np.median(values)))) for at, values in taken]
    return [_path([*upper, *reversed(lower)], "band", closed=True), _path(middle, "line")]


def _ladder(it: Latencies, x: Scale, ladder: int, top: float) -> list[str]:
    """The rung over time: 0, what was asked for, is on top."""
    y = Scale(0, max(1, ladder - 1), top, top + LADDER_HEIGHT - 4)
    parts = [_text(LEFT - 6, top + 8, "rung 0", "end"), _text(LEFT - 6, top + LADDER_HEIGHT, str(ladder - 1), "end")]
    parts.append(_path([(LEFT, top + LADDER_HEIGHT), (x.end, top + LADDER_HEIGHT)], "grid"))
    if not it.times.size:
        return parts
    start, end = float(it.times[0]), float(it.times[-1])
    before = [rung for at, rung in it.rungs if at <= start]
    steps = [(start, before[-1] if before else 0), *((at, rung) for at, rung in it.rungs if start < at < end)]
    points: list[Point] = []
    for (at, rung), until in zip(steps, [*(at for at, _ in steps[1:]), end], strict=True):
        points += [(x(at), y(rung)), (x(until), y(rung))]
    return [*parts, _path(points, "rung")]


def _cumulated(latencies: Floats, x: Scale, y: Scale) -> list[Point]:
    """As a line through at most MOST_POINTS quantiles."""
    shares = np.linspace(0, 100, min(latencies.size, MOST_POINTS) + 1)
    return [
        (x(float(value)), y(float(share)))
        for value, share in zip(np.percentile(latencies, shares), shares, strict=True)
    ]


def _limit_across(slo_ms: float, y: Scale, width: int) -> list[str]:
    if slo_ms > y.high:
        return [_text(width - RIGHT - 2, TOP + 8, f"SLO {slo_ms:g} ms, above", "end", "limit-text")]
    level = y(slo_ms)
    label = _text(width - RIGHT - 2, level - 4, f"SLO {slo_ms:g} ms", "end", "limit-text")
    return [_path([(LEFT, level), (width - RIGHT, level)], "limit"), label]


def _across(y: Scale, width: float, unit: str) -> list[str]:
    """Grid lines and labels of the upright axis."""
    values = ticks(y.high, 4)
    parts = [_path([(LEFT, y(value)), (width - RIGHT, y(value))], "grid") for value in values]
    parts += [_text(LEFT - 6, y(value) + 4, f"{value:g}", "end") for value in values[:-1]]
    return [*parts, _text(LEFT - 6, y(values[-1]) + 4, f"{values[-1]:g} {unit}", "end")]


def _along(x: Scale, bottom: float, unit: str, *, grid: bool = True, labels: bool = True) -> list[str]:
    """Marks and labels of the level axis."""
    values = ticks(x.high, 8)
    parts = [_path([(x(value), bottom), (x(value), bottom + 4)], "grid") for value in values] if grid else []
    if labels:
        parts += [_text(x(value), bottom + 17, f"{value:g}", "middle") for value in values[:-1]]
        parts.append(_text(x(values[-1]), bottom + 17, f"{values[-1]:g} {unit}", "middle"))
    return parts


def _svg(width: float, height: float, parts: Iterable[str], label: str) -> str:
    shape = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return f'<svg {shape} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _path(points: Sequence[Point], kind: str, *, closed: bool = False) -> str:
    through = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{kind}" d="M{through}{" Z" if closed else ""}"/>'


def _rect(x: float, y: float, width: float, height: float, kind: str, title: str) -> str:
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {shape}><title>{escape(title)}</title></rect>'


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
