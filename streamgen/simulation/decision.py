"""What one decision of the policy takes on this machine."""

from __future__ import annotations

import time
from random import Random
from typing import NamedTuple

from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import Shape
from streamgen.scheduler.policy import Queued, SessionView, plan
from streamgen.simulation.workload import DEVICE, SPEC, drawn, known
from streamgen.statistics import percentile

ROUNDS = 300


class Decisions(NamedTuple):
    """Of a plan for so many sessions (us)."""

    mean_us: float
    p50_us: float
    p99_us: float


def decisions(sessions: int, seed: int, rounds: int = ROUNDS) -> Decisions:
    """Times plans for sessions that all have a few frames queued."""
    random = Random(f"decisions {seed}")
    cost, taken = known(DEVICE), []
    for _ in range(rounds):
        views = drawn_views(random, sessions, now=100.0)
        began = time.perf_counter()
        plan(100.0, views, cost, Capacity(max_batch=4))
        taken.append(time.perf_counter() - began)
    taken.sort()
    mean = sum(taken) / len(taken)
    return Decisions(*(round(1e6 * seconds, 1) for seconds in (mean, percentile(taken, 0.5), percentile(taken, 0.99))))


def drawn_views(random: Random, sessions: int, now: float) -> list[SessionView]:
    """Sessions of the sweep's mix with up to six frames queued each."""
    wanted, _ = drawn(random, DEVICE, 1.0)
    views = []
    for number in range(sessions):
        params = random.choice(wanted)
        interval, budget = 1 / params.fps, params.slo_ms / 1000
        newest = now + budget - random.random() * interval
        count = random.randint(1, SPEC.chunk_frames + 2)
        frames = tuple(Queued(10 + i, newest - (count - 1 - i) * interval) for i in range(count))
        shape = Shape(SPEC.chunk_frames, params.width, params.height)
        views.append(
            SessionView(
                f"s{number}",
                frames,
                SPEC.chunk_frames,
                frames[0].deadline,
                budget,
                interval,
                params.steps,
                shape,
                lost=random.random() * 0.2,
            )
        )
    return views
