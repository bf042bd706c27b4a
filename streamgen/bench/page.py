"""The report as one HTML page: plots, a table, and what was run; no network, no script, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from streamgen.bench import plots
from streamgen.bench.latency import Outcome
from streamgen.bench.measure import Figures, Log
from streamgen.bench.page_style import STYLE
from streamgen.bench.tables import listed, named

WIDE, HALF = 1000, 492
"""Pixels of a plot."""
TALL = 190
HEADROOM = 1.15
STAGES = ("fill", "queue", "transfer", "encode", "denoise", "decode", "pace")
"""In the order in which a frame passes them; each has its colour whatever the run."""
OUTSIDE = "outside"
OTHER = "other"
NONE = "–"  # noqa: RUF001 - a dash in a table

NOTES = """\
Latency is from glass to glass: from the moment at which a frame was drawn to the moment at which its result had been
decoded, told by a barcode in the picture itself.

Misses are results that took longer than the SLO, and frames that the service dropped as late or overload; their share
is of the frames for which a result was due: not of those that a lower frame rate or a queue took.

Stages are the service's own means; outside is what the mean latency has beyond them: codecs, network and client, both
ways."""


def page(report: Mapping[str, Any], outcome: Outcome, faults: Sequence[str]) -> str:
    """The page for a report (as cli.document makes it) and what it was made of; `faults` are limits missed."""
    count = len(outcome.sessions)
    title = f"Latency of {count} session{'s' if count != 1 else ''}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=command><code>{escape(str(report['command']))}</code></p>",
        _verdict(faults),
        _tiles(outcome),
        *_latencies(outcome),
        _distribution(outcome),
        _stages(outcome),
        _table(outcome),
        *(f"<p class=note>{escape(note)}</p>" for note in NOTES.split("\n\n")),
        _machine(report),
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _verdict(faults: Sequence[str]) -> str:
    if not faults:
        return ""
    return f"<ul class=faults>{''.join(f'<li>{escape(fault)}</li>' for fault in faults)}</ul>"


def _tiles(outcome: Outcome) -> str:
    it = outcome.overall
    if it is None:
        return ""
    latency = it.glass_to_glass_ms
    entry = it.admission
    figures = (
        ("p50", _ms(latency["p50"])),
        ("p95", _ms(latency["p95"])),
        ("p99", _ms(latency["p99"])),
        ("jitter", _ms(it.jitter_ms)),
        ("slowest first frame", _ms(it.ttff_ms)),
        ("frames a second", f"{it.fps_out:.1f}"),
        (
            "misses" if it.slo_ms is None else f"missed {it.slo_ms:g} ms",
            NONE if it.miss_rate is None else f"{it.miss_rate:.1%}",
        ),
        ("let in", f"{int(entry.admitted)} of {len(outcome.sessions)}"),
    )
    tiles = (f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in figures)
    return f"<div class=tiles>{''.join(tiles)}</div>"


def _latencies(outcome: Outcome) -> Iterable[str]:
    """A plot for each session, all to the same scale."""
    if not outcome.logs:
        return
    series = [_series(log) for log in outcome.logs]
    seconds = max((float(it.times[-1]) for it in series if it.times.size), default=1.0)
    seconds = max([seconds, *(it.waited[1] for it in series if it.waited)])
    most = _most(outcome)
    ladder = max(log.rungs.count for log in outcome.logs)
    ladder = ladder if ladder > 1 else 0
    single = len(series) == 1
    size = (WIDE if single else HALF), TALL + (plots.LADDER_HEIGHT + plots.LADDER_GAP if ladder else 0)
    yield "<h2>Latency over time</h2><div class=sessions>"
    for number, (it, result) in enumerate(zip(series, outcome.sessions, strict=True), 1):
        text = str(result) if not isinstance(result, Figures) else _caption(result)
        name = f"<b>Session {number}</b> {escape(text)}"
        yield f"<figure{' class=wide' if single else ''}><figcaption>{name}</figcaption>"
        yield plots.over_time(it, most, seconds, size, ladder=ladder) + "</figure>"
    yield "</div>"


def _caption(it: Figures) -> str:
    latency = it.glass_to_glass_ms
    if latency["p50"] is None or latency["p95"] is None:
        return f"never let in: {it.admission.reason}" if not it.admission.admitted else "nothing came back"
    misses = "" if it.miss_rate is None else f", {it.miss_rate:.1%} missed"
    waited = f", waited {it.admission.waited_s:.1f} s" if it.admission.waited_s else ""
    return f"p50 {latency['p50']:.0f} ms, p95 {latency['p95']:.0f} ms{misses}{waited}"


def _series(log: Log) -> plots.Latencies:
    entry = log.admission.entry(log.opened)
    asked = log.opened - log.started
    return plots.Latencies(
        times=np.array([sample.received for sample in log.samples], dtype=np.float64),
        latencies=_of([log]),
        slo_ms=log.slo_ms,
        waited=(asked, asked + entry.waited_s) if entry.waited_s else None,
        rungs=[(step.at, step.rung) for step in log.rungs.steps],
    )


def _of(logs: Iterable[Log]) -> plots.Floats:
    """Latencies in ms."""
    return np.array([sample.latency * 1000 for log in logs for sample in log.samples], dtype=np.float64)


def _most(outcome: Outcome) -> float:
    """Milliseconds at the end of the scale: a few results that took much longer lie on the edge."""
    latencies = _of(outcome.logs)
    budgets = [log.slo_ms for log in outcome.logs if log.slo_ms is not None]
    usual = float(np.percentile(latencies, 99.5)) if latencies.size else 0.0
    near = [budget for budget in budgets if budget <= 4 * usual or not usual]
    return HEADROOM * max([usual, *near], default=1.0) or 1.0


def _distribution(outcome: Outcome) -> str:
    together = _of(outcome.logs)
    if not together.size:
        return ""
    each = [_of([log]) for log in outcome.logs] if len(outcome.logs) > 1 else []
    slo = None if outcome.overall is None else outcome.overall.slo_ms
    what = "blue: all sessions together; grey: each" if each else "share of results that took at most so long"
    drawn = plots.distribution(each, together, _most(outcome), slo, (WIDE, 240))
    return f"<h2>Distribution</h2><figure class=wide><figcaption>{what}</figcaption>{drawn}</figure>"


def _stages(outcome: Outcome) -> str:
    rows = []
    for name, it in named(outcome):
        if it.stages_ms:
            parts = {stage: it.stages_ms.get(stage, 0.0) for stage in STAGES}
            other = sum(value for stage, value in it.stages_ms.items() if stage not in STAGES)
            rows.append((name, parts | {OTHER: other, OUTSIDE: it.outside_ms or 0.0}))
    if not rows:
        return ""
    names = (*STAGES, OTHER, OUTSIDE)
    used = [(place, name) for place, name in enumerate(names) if any(parts[name] > 0 for _, parts in rows)]
    keys = "".join(f"<li><i class=stage-{place}></i>{escape(name)}</li>" for place, name in used)
    drawn = plots.bars(rows, names, WIDE)
    return f"<h2>Where the time goes</h2><ul class=keys>{keys}</ul><figure class=wide>{drawn}</figure>"


TITLES = (
    *("session", "from s", "ttff", "p50", "p95", "p99", "max", "jitter", "fps", "sent", "received", "misses"),
    *("dropped", "rungs", "admission"),
)


def _table(outcome: Outcome) -> str:
    rows = [_cells(name, it) for name, it in named(outcome)]
    failed = [(str(number), str(it)) for number, it in enumerate(outcome.sessions, 1) if not isinstance(it, Figures)]
    head = "".join(f"<th>{escape(title)}</th>" for title in TITLES)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows)
    body += "".join(
        f"<tr><td>{number}</td><td colspan={len(TITLES) - 1} class=failed>{escape(error)}</td></tr>"
        for number, error in failed
    )
    return f"<h2>Sessions</h2><div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _cells(name: str, it: Figures) -> list[str]:
    latency, entry = it.glass_to_glass_ms, it.admission
    spent = ", ".join(f"{rung}: {seconds:.0f} s" for rung, seconds in it.rungs.seconds.items())
    changes = f"; {it.rungs.changes} changes ({listed(it.rungs.reasons)})" if it.rungs.changes else ""
    way = [f"waited {entry.waited_s:.1f} s{'' if name != 'all' else ' at most'}"] if entry.waited_s else []
    way += [f"refused {entry.refused}"] if entry.refused else []
    way += ["never let in"] if not entry.admitted else []
    times = (it.ttff_ms, *(latency[key] for key in ("p50", "p95", "p99", "max")), it.jitter_ms)
    return [
        name,
        f"{it.start_s:.1f}" if name != "all" else NONE,
        *(NONE if time is None else f"{time:.0f}" for time in times),
        f"{it.fps_out:.1f}",
        str(it.frames_sent),
        str(it.frames_received),
        NONE if it.misses is None else str(it.misses),
        listed(it.drops) or NONE,
        spent + changes if it.rungs.rungs > 1 else NONE,
        ", ".join(way) or NONE,
    ]


def _machine(report: Mapping[str, Any]) -> str:
    about = {**report["machine"], **{f"{name} version": version for name, version in report["versions"].items()}}
    told = (
        f"{name} {', '.join(value) if isinstance(value, list) else value}" for name, value in about.items() if value
    )
    return f"<p class=note>{escape('; '.join(told))}</p>"


def _ms(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f} ms"
