"""Lines over load, as SVG in a page of its own."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 30, 40
"""Margins (pixels)."""

COLOURS = ("#1b6ca8", "#2a9d4a", "#8e44ad", "#111111", "#c0392b", "#e67e22", "#7f8c8d")

Points = Sequence[tuple[float, float]]


def page(title: str, charts: Sequence[str], notes: str) -> str:
    """A page of SVG charts."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
    style = "<style>body{font:14px sans-serif;margin:1.5em}svg{margin:0 1em 1em 0}</style>"
    body = f"<h1>{html.escape(title)}</h1><p>{html.escape(notes)}</p>{''.join(charts)}"
    return f"<!doctype html>{head}{style}{body}\n"


def chart(title: str, unit: str, series: Mapping[str, Points], *, log: bool = False, most: float | None = None) -> str:
    """One SVG: (x, y) of each series as a line. Where `log`, what is not above 0 is not drawn."""
    drawn = {name: [(x, y) for x, y in points if y > 0 or not log] for name, points in series.items()}
    xs = [x for points in drawn.values() for x, _ in points] or [0.0, 1.0]
    ys = [y for points in drawn.values() for _, y in points] or [0.0, 1.0]
    left, right = min(0.0, *xs), max(xs)
    high = most if most is not None else max(ys) or 1.0
    low = 10 ** math.floor(math.log10(min(ys))) if log else min(0.0, *ys)
    high = 10 ** math.ceil(math.log10(high)) if log else high

    def across(x: float) -> float:
        return LEFT + (x - left) / (right - left or 1) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        share = math.log(y / low) / math.log(high / low or 10) if log else (min(y, high) - low) / (high - low or 1)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="16" font-weight="bold">{html.escape(title)} ({html.escape(unit)})</text>']
    parts += [_grid(_text(y), down(y)) for y in (_decades(low, high) if log else _steps(low, high))]
    parts += [_tick(_text(x), across(x)) for x in _steps(left, right)]
    for index, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{LEFT + 8}" y="{TOP + 14 + 13 * index}" fill="{colour}">{html.escape(name)}</text>')
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def _grid(label: str, y: float) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
    return f'{line}<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'


def _tick(label: str, x: float) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label}</text>'


def _steps(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, about five."""
    rough = (high - low or 1.0) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.99)
    first = math.ceil(low / step - 1e-9)
    return [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def _text(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e5 else f"{value:.0e}"
