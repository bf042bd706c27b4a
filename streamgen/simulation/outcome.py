"""What came of a run, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from streamgen.simulation.client import Client
from streamgen.statistics import percentile

LEAST_FRAMES = 40
"""Sessions that had fewer frames due do not count in the fairness: a chunk more or less is too much of them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one contender at one load. Frames count from the end of the warm-up on."""

    sessions: int
    """That got in."""
    offered_fps: float
    """Frames that cameras gave, a second."""
    miss_rate: float
    """Share of the frames that were to be in time and were not: late, or lost for want of time."""
    goodput: float
    """Device time that frames in time are worth, of what the device had, or of what was asked of it if that is less."""
    goodput_fps: float
    """Frames in time, a second."""
    p50: float
    """Latency of what was delivered (ms)."""
    p95: float
    p99: float
    p99_of_budget: float
    """Latency of what was delivered, as a share of its budget."""
    growth: float
    """By how much the median latency of the last third of the run is above that of the first third (ms)."""
    fairness: float
    """Max-min: the least share of its frames that a session got in time, of the share that all would get alike."""
    jain: float
    """Jain's index of these shares."""
    mean_rung: float
    """Rungs below what was asked for."""
    thinned: int
    """Frames left out because a lower rung has fewer."""
    queued: int
    """Sessions that had to wait for room."""
    refused: int
    """Sessions that never got in."""
    plan_us: float
    """The scheduler's own time for a decision, mean (us of the machine that simulated)."""
    plan_p99_us: float
    drops: dict[str, int]

    def as_dict(self) -> dict[str, object]:
        """For JSON, with figures that mean something."""
        return {
            name: float(f"{value:.5g}") if isinstance(value, float) else value
            for name in self.__slots__
            for value in (getattr(self, name),)
        }


def outcome(clients: Sequence[Client], worth: Sequence[float], seconds: float, plans_s: Sequence[float]) -> Outcome:
    """`worth`: device time of one frame of each client, at the quality that it asks for (s)."""
    inside = [(client, its) for client, its in zip(clients, worth, strict=True) if client.came_in]
    counts = [client.counts for client, _ in inside]
    due = sum(count.due for count in counts)
    in_time_s = sum(count.in_time * its for count, (_, its) in zip(counts, inside, strict=True))
    due_s = sum(count.due * its for count, (_, its) in zip(counts, inside, strict=True))
    shown = sorted((s.at, s.latency) for client, _ in inside for s in client.shown)
    latencies = sorted(latency for _, latency in shown)
    of_budget = sorted(s.latency / (client.visit.params.slo_ms / 1000) for client, _ in inside for s in client.shown)
    shares = [count.in_time / count.due for count in counts if count.due >= LEAST_FRAMES]
    drops = Counter[str]()
    for count in counts:
        drops += count.drops
    rungs = [rung for client, _ in inside for rung in client.rungs]
    planning = sorted(plans_s)
    return Outcome(
        sessions=len(inside),
        offered_fps=sum(count.came for count in counts) / seconds,
        miss_rate=sum(count.missed for count in counts) / due if due else 0.0,
        goodput=in_time_s / min(seconds, due_s) if due_s else 0.0,
        goodput_fps=sum(count.in_time for count in counts) / seconds,
        p50=_ms(latencies, 0.5),
        p95=_ms(latencies, 0.95),
        p99=_ms(latencies, 0.99),
        p99_of_budget=percentile(of_budget, 0.99) if of_budget else 0.0,
        growth=_growth(shown),
        fairness=min(shares) / (in_time_s / due_s) if shares and in_time_s else 0.0,
        jain=_jain(shares),
        mean_rung=sum(rungs) / len(rungs) if rungs else 0.0,
        thinned=drops["rate"],
        queued=sum(client.queued for client, _ in inside),
        refused=len(clients) - len(inside),
        plan_us=1e6 * sum(planning) / len(planning) if planning else 0.0,
        plan_p99_us=1e6 * percentile(planning, 0.99) if planning else 0.0,
        drops=dict(sorted(drops.items())),
    )


def _ms(ordered: list[float], share: float) -> float:
    return 1000 * percentile(ordered, share) if ordered else 0.0


def _growth(shown: Sequence[tuple[float, float]]) -> float:
    third = len(shown) // 3
    if not third:
        return 0.0
    first, last = (sorted(latency for _, latency in part) for part in (shown[:third], shown[-third:]))
    return 1000 * (percentile(last, 0.5) - percentile(first, 0.5))


def _jain(shares: Sequence[float]) -> float:
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0
