"""Contenders over a range of loads, on the same sessions and the same randomness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from streamgen.simulation.contender import Contender
from streamgen.simulation.device import Device
from streamgen.simulation.outcome import Outcome
from streamgen.simulation.plot import chart, page
from streamgen.simulation.run import Run, simulate
from streamgen.simulation.trace import CROWDS
from streamgen.simulation.workload import DEVICE, drawn

LOADS = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)

Results = Mapping[str, Mapping[float, Outcome]]
"""By contender, by load."""


def planned(contender: Contender, trace: str, load: float, seconds: float, seed: int, device: Device = DEVICE) -> Run:
    """A run at this load. Runs of other contenders at the same load and seed have the same sessions."""
    wanted, its = drawn(Random(f"sessions {load} {seed}"), device, load)
    visits = CROWDS[trace](wanted, seconds, Random(f"visits {load} {seed}"))
    return Run(contender, visits, its, seconds, warm_up_s=seconds / 6, seed=seed)


def sweep(
    contenders: Sequence[Contender],
    loads: Sequence[float],
    trace: str,
    seconds: float,
    seed: int,
    device: Device = DEVICE,
    done: Callable[[], object] = lambda: None,
) -> Results:
    """All of them; `done` is called after each run."""
    results: dict[str, dict[float, Outcome]] = {}
    for contender in contenders:
        for load in loads:
            run = planned(contender, trace, load, seconds, seed, device)
            results.setdefault(contender.name, {})[load] = simulate(run)
            done()
    return results


HEAD = (
    "policy     load sessions  frames/s  miss %  goodput %  in time/s   p50    p95    p99  p99/budget  growth"
    "  max-min   jain  rung  queued  refused  plan us"
)


def lines(results: Results) -> list[str]:
    """A table, latencies in ms."""
    return [HEAD] + [
        f"{name:9} {load:5.2f} {its.sessions:8} {its.offered_fps:9.1f} {100 * its.miss_rate:7.2f} "
        f"{100 * its.goodput:10.1f} {its.goodput_fps:10.1f} {its.p50:5.0f} {its.p95:6.0f} {its.p99:6.0f} "
        f"{its.p99_of_budget:11.2f} {its.growth:7.0f} {its.fairness:8.3f} {its.jain:6.3f} {its.mean_rung:5.2f} "
        f"{its.queued:7} {its.refused:8} {its.plan_us:8.0f}"
        for name, by_load in results.items()
        for load, its in by_load.items()
    ]


def plots(results: Results, title: str, notes: str) -> str:
    """A page with a chart of each figure over load."""

    def over_load(figure: Callable[[Outcome], float]) -> dict[str, list[tuple[float, float]]]:
        return {name: [(load, figure(its)) for load, its in by_load.items()] for name, by_load in results.items()}

    charts = [
        chart("Misses", "% of frames due", over_load(lambda its: 100 * its.miss_rate), most=100.0),
        chart("Goodput", "% of what the device could do", over_load(lambda its: 100 * its.goodput), most=110.0),
        chart("Latency, p50", "ms", over_load(lambda its: its.p50), log=True),
        chart("Latency, p99", "ms", over_load(lambda its: its.p99), log=True),
        chart("Fairness", "max-min index", over_load(lambda its: its.fairness), most=1.1),
        chart("Frames in time", "a second", over_load(lambda its: its.goodput_fps)),
    ]
    return page(title, charts, notes)
