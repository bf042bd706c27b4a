"""Limits given on the command line, and what of a run is beyond them."""

from __future__ import annotations

from collections.abc import Mapping

from streamgen.bench.latency import Outcome
from streamgen.bench.measure import Figures

GATES = ("max_ttff_ms", "max_p95_ms", "max_growth_ms", "min_fps_out", "max_miss_rate")
"""All but the last hold for every session. max_miss_rate is in percent, and holds for those that have a slo_ms."""


def check(outcome: Outcome, gates: Mapping[str, float]) -> list[str]:
    """One line for every gate that a session missed, and for every session that got another's pictures.

    A session that was never let in misses the gate on the first frame, as far as there is one, and no other; but one
    must have been let in.
    """
    found = [] if outcome.errors or _anyone(outcome) else [f"no session was let in: {_reason(outcome)}"]
    for number, session in outcome.measured:
        missed = (_missed(name, limit, session) for name, limit in gates.items())
        found += [f"session {number}: {what}" for what in missed if what]
        if session.foreign:
            found.append(f"session {number}: {session.foreign} results were another session's")
    return found


def _anyone(outcome: Outcome) -> bool:
    return any(session.admission.admitted for _, session in outcome.measured)


def _reason(outcome: Outcome) -> str:
    return next((session.admission.reason for _, session in outcome.measured), "there was none")


def _missed(gate: str, limit: float, session: Figures) -> str | None:
    kind, _, name = gate.partition("_")
    if not session.admission.admitted:
        return f"{name} was not measured, for it was never let in" if name == "ttff_ms" else None
    if name == "miss_rate":
        return _too_many_misses(limit, session)
    value = _gated(name, session)
    if value is None:
        return f"{name} was not measured"
    if value > limit if kind == "max" else value < limit:
        return f"{name} {value:.1f} is {'over' if kind == 'max' else 'under'} {limit:g}"
    return None


def _too_many_misses(limit: float, session: Figures) -> str | None:
    rate = session.miss_rate
    if rate is None or rate * 100 <= limit:
        return None
    missed = f"{session.misses} of {session.frames_due} frames ({rate:.1%})"
    return f"{missed} missed {session.slo_ms:g} ms; at most {limit:g} %"


def _gated(name: str, session: Figures) -> float | None:
    match name:
        case "ttff_ms":
            return session.ttff_ms
        case "p95_ms":
            return session.glass_to_glass_ms["p95"]
        case "fps_out":
            return session.fps_out
        case "growth_ms":
            first, last = session.first_5s_p50, session.last_5s_p50
            return None if first is None or last is None else last - first
    raise ValueError(f"no gate on {name}")
