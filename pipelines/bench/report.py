"""The report for people: a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "case", "dtype", "DiT step ms", "encode ms", "decode ms", "chunk ms", "fps", "of peak: DiT, chunk",
    "first frame ms", "GPU MiB", "differs by",
)  # fmt: skip
NOTE = """Random weights. Where there are two numbers, the second is the published package in the same run, on the same
weights, each side in the number format in which it is faster; in brackets, how many times as long it takes. Medians."""


def markdown(results: Mapping[str, Mapping[str, Any]], machine: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """Ours / published (how many times as long), where the published package was measured beside it."""
    where = ", ".join([*machine["gpu"], f"{machine['cpu']}, {machine['cores']} cores"])
    what = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        f"{where}; {what}.",
        "",
        NOTE,
        "",
        _row(COLUMNS),
        _row(["---"] * len(COLUMNS)),
    ]
    return "\n".join([*lines, *(_row(_cells(name, entry)) for name, entry in results.items())]) + "\n"


def _cells(name: str, entry: Mapping[str, Any]) -> list[str]:
    if "skipped" in entry:
        return [name, entry["skipped"], *[""] * (len(COLUMNS) - 2)]
    dtypes = [entry["dtype"], *([entry["reference_dtype"]] if entry["reference_dtype"] else [])]
    return [
        name,
        " / ".join(dtypes),
        *(_times(entry[what]) for what in ("dit", "encode", "decode", "chunk")),
        _both(entry, "fps"),
        f"{entry['dit']['flops_share']:.0%}, {entry['chunk']['flops_share']:.0%}",
        _both(entry, "ttff_ms"),
        _both(entry, "memory_mib") if "memory_mib" in entry else "",
        ", ".join(f"{value:.1e}" for value in entry.get("difference", {}).values()),
    ]


def _times(stage: Mapping[str, float]) -> str:
    if "ratio" not in stage:
        return _number(stage["ms"])
    return f"{_number(stage['ms'])} / {_number(stage['reference_ms'])} ({stage['ratio']:.2f}x)"


def _both(entry: Mapping[str, Any], what: str) -> str:
    values = [entry[name] for name in (what, f"reference_{what}") if entry.get(name) is not None]
    return " / ".join(_number(value) for value in values)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def short(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
