"""A run's figures as tables: for people to read, and as CSV for spreadsheets. Times in ms unless they say otherwise."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from streamgen.bench.latency import Outcome
from streamgen.bench.measure import Figures, Log

COLUMNS = (
    *("session", "ttff", "p50", "p95", "p99", "max", "jitter", "first 5s", "last 5s"),
    *("fps in", "fps out", "sent", "received", "late", "misses", "unreadable"),
)
COLUMN_WIDTH = 6
NONE = "-"

SESSION_COLUMNS = (
    *("session", "start_s", "error", "admitted", "queued", "waited_s", "refused", "retries", "positions"),
    *("ttff_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms", "jitter_ms", "first_5s_p50", "last_5s_p50"),
    *("fps_in", "fps_out", "frames_sent", "frames_received", "frames_due", "unreadable", "foreign"),
    *("slo_ms", "misses", "miss_rate", "deadline_misses", "rungs", "rung_changes"),
)
"""Before the columns that depend on the run: drops_REASON, stage_NAME_ms, rung_NUMBER_s."""

FRAME_COLUMNS = ("session", "id", "sent", "received", "latency_ms", "rung")


def table(outcome: Outcome) -> str:
    """The figures for people."""
    rows = named(outcome)
    lines = [_aligned(*COLUMNS), *(_row(name, figures) for name, figures in rows)]
    for what, told in (
        ("dropped by the service", _drops),
        ("the service's time, mean ms", _stages),
        ("quality", _rungs),
        ("admission", _admission),
    ):
        lines += [f"{what} ({name}): {text}" for name, figures in rows if (text := told(figures))]
    return "\n".join(lines) + "\n"


def named(outcome: Outcome) -> list[tuple[str, Figures]]:
    """Every session's figures with its number, then those of all together, where there are several."""
    rows = [(str(number), figures) for number, figures in outcome.measured]
    if outcome.overall is not None and len(rows) > 1:
        rows.append(("all", outcome.overall))
    return rows


def sessions_csv(outcome: Outcome) -> str:
    """One row per session, those that failed included."""
    figures = [it for _, it in outcome.measured]
    reasons = sorted({reason for it in figures for reason in it.drops})
    stages = list(dict.fromkeys(name for it in figures for name in it.stages_ms))
    rungs = sorted({rung for it in figures for rung in it.rungs.seconds}, key=int)
    further = [
        *(f"drops_{reason}" for reason in reasons),
        *(f"stage_{name}_ms" for name in stages),
        *(["outside_ms"] if stages else []),
        *(f"rung_{rung}_s" for rung in rungs),
    ]
    rows: list[dict[str, object]] = []
    for number, it in enumerate(outcome.sessions, 1):
        if not isinstance(it, Figures):
            rows.append({"session": number, "error": str(it)})
            continue
        row = _session_row(number, it)
        row |= {f"drops_{reason}": it.drops.get(reason, 0) for reason in reasons}
        row |= {f"stage_{name}_ms": value for name, value in it.stages_ms.items()}
        row |= {f"rung_{rung}_s": it.rungs.seconds.get(rung, 0.0) for rung in rungs}
        rows.append(row)
    return _csv([*SESSION_COLUMNS, *further], rows)


def frames_csv(outcome: Outcome) -> str:
    """One row per frame sent. Times sent and received are s since the run's start; empty where no result was told.

    rung is the one that the session was on when the result came.
    """
    rows = (row for number, log in enumerate(outcome.logs, 1) for row in _frame_rows(number, log))
    return _csv(FRAME_COLUMNS, rows)


def _frame_rows(number: int, log: Log) -> Iterator[dict[str, object]]:
    results = {sample.frame: sample for sample in reversed(log.samples)}  # the first one of each frame
    for frame, sent in enumerate(log.sent):
        row: dict[str, object] = {"session": number, "id": frame, "sent": sent - log.started}
        if (sample := results.get(frame)) is not None:
            latency, rung = sample.latency * 1000, log.rungs.at(sample.received)
            row |= {"received": sample.received, "latency_ms": latency, "rung": rung}
        yield row


def _session_row(number: int, it: Figures) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(it, name) for name in SESSION_COLUMNS if name in it.__slots__}
    entry = it.admission
    row |= {"session": number, "admitted": entry.admitted, "queued": entry.queued, "waited_s": entry.waited_s}
    row |= {"refused": entry.refused, "retries": entry.retries, "positions": " ".join(map(str, entry.positions))}
    row |= {f"{name}_ms": value for name, value in it.glass_to_glass_ms.items()}
    row |= {"rungs": it.rungs.rungs, "rung_changes": it.rungs.changes}
    return row | ({} if it.outside_ms is None else {"outside_ms": it.outside_ms})


def _csv(columns: Sequence[str], rows: Iterator[dict[str, object]] | list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])
    return text.getvalue()


def _cell(value: object) -> object:
    match value:
        case None:
            return ""
        case bool():
            return int(value)
        case float():
            return round(value, 4)
        case str() if value.startswith(("=", "+", "-", "@", "\t")):
            return f"'{value}"  # no formula, for those who open it in a spreadsheet
    return value


def _row(name: str, it: Figures) -> str:
    quantiles = (it.glass_to_glass_ms[key] for key in ("p50", "p95", "p99", "max"))
    times = (it.ttff_ms, *quantiles, it.jitter_ms, it.first_5s_p50, it.last_5s_p50)
    counts = (it.frames_sent, it.frames_received, it.deadline_misses, it.misses, it.unreadable)
    return _aligned(
        name,
        *(NONE if time is None else f"{time:.0f}" for time in times),
        *(f"{rate:.1f}" for rate in (it.fps_in, it.fps_out)),
        *(NONE if count is None else str(count) for count in counts),
    )


def _drops(it: Figures) -> str:
    return listed(it.drops)


def _stages(it: Figures) -> str:
    parts = [f"{name} {value:.0f}" for name, value in it.stages_ms.items()]
    if it.outside_ms is not None:
        parts.append(f"outside {it.outside_ms:.0f}")
    return ", ".join(parts)


def _rungs(it: Figures) -> str:
    ladder = it.rungs
    if ladder.rungs <= 1 and not ladder.changes:
        return ""
    spent = ", ".join(f"rung {rung} {seconds:.1f} s" for rung, seconds in ladder.seconds.items())
    why = f" ({listed(ladder.reasons)})" if ladder.reasons else ""
    return f"{spent}; {ladder.changes} changes{why}"


def _admission(it: Figures) -> str:
    """Empty where it was let in at once."""
    entry = it.admission
    several = not isinstance(entry.admitted, bool)
    if not (entry.refused or entry.queued):
        return ""
    parts = []
    if entry.refused:
        parts.append(f"refused {entry.refused} times, asked again {entry.retries} times")
    if entry.queued:
        places = f" at {', '.join(map(str, entry.positions))}" if entry.positions else ""
        parts.append(f"{entry.queued} queued" if several else f"queued{places}")
    if several:
        parts.append(f"{entry.admitted} let in, the longest wait {entry.waited_s:.1f} s")
    elif entry.admitted:
        parts.append(f"let in after {entry.waited_s:.1f} s")
    else:
        parts.append(f"never let in after {entry.waited_s:.1f} s ({entry.reason})")
    return "; ".join(parts)


def listed(counts: dict[str, int]) -> str:
    """ "late 3, rate 1"."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _aligned(*cells: str) -> str:
    return "  ".join(cell.rjust(max(len(title), COLUMN_WIDTH)) for cell, title in zip(cells, COLUMNS, strict=True))
