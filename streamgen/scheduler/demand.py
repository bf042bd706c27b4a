"""Whether a device can keep the promises made to a set of sessions, and at which quality. Pure.

A session is a periodic task: a chunk every `period`, worth `cost` of the device's time, to be done within `slack` of
its last frame's coming. Where several stages work at once, the slowest is the device, and what a chunk spends
on the others is taken off its slack. Chunks run to their end, earliest deadline first. The promises hold where

    sum of cost / period                    is at most the share of the device that may be used, and
    for every slack D, the work that can come due within D, and the longest chunk that may just have begun, fit into D

(the processor demand test of non-preemptive earliest-deadline-first scheduling, Jeffay, Stanat and Martel 1991, at the
first deadline of each task).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.chunks import careful, chunk_length
from streamgen.scheduler.cost import CostModel, Rates, Shape
from streamgen.scheduler.policy import HANDOVER_S, SAVES
from streamgen.scheduler.quality import Quality

USUAL_BATCH = 2
"""Promises reckon with batches of so many chunks that others have to wait for. Larger ones are rare where promises
hold, as no batch grows at the cost of one that could be in time; they come where many wait, and then they save time."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a session asks of the device."""

    session: str
    rungs: tuple[Quality, ...]
    """What it may run as: as asked for first, then lighter and lighter."""
    chunk_frames: int
    """Most frames of a chunk."""
    budget: float
    """Latency budget of a frame (s)."""
    batch: bool = False
    """Without promises."""
    memory: float = 1.0
    """Of its stream state, in states of the default size."""


class Task(NamedTuple):
    """A session's work at one rung."""

    cost: float
    """Of a chunk (s): its share of a batch."""
    period: float
    """Between chunks (s)."""
    slack: float
    """From a chunk's last frame to the deadline of its first (s)."""
    blocking: float
    """How long the batch it is in may keep others waiting (s)."""


Levels = Mapping[str, int]
"""Rungs by session."""


def tasks(at: Sequence[tuple[Demand, Quality]], cost: CostModel, capacity: Capacity, dearer: float = 1.0) -> list[Task]:
    """The work of these sessions at these qualities, with costs shared where batches save, each `dearer` times."""
    alike = Counter(shape_of(demand, quality) for demand, quality in at)
    sized = ((demand, quality, alike[shape_of(demand, quality)]) for demand, quality in at)
    return [_task(demand, quality, count, cost, capacity, dearer) for demand, quality, count in sized]


def fits(work: Sequence[Task], usable: float) -> bool:
    """Whether all of `work` is done in time, with `usable` (0..1) of the device."""
    if usable <= 0 or sum(task.cost / task.period for task in work) > usable:
        return False
    kinds = sorted(Counter(work).items(), key=lambda kind: kind[0].slack)
    for index, (task, _) in enumerate(kinds):
        horizon = task.slack
        later = max((other.blocking for other, _ in kinds[index + 1 :]), default=0.0)
        due = sum(
            count * (1 + int((horizon - other.slack) / other.period)) * other.cost
            for other, count in kinds
            if other.slack <= horizon
        )
        # the task's own batch runs whole before the last chunk in it is done
        if max(due, task.blocking) + later > horizon:
            return False
    return True


def levels(
    demands: Sequence[Demand], cost: CostModel, capacity: Capacity, usable: float, dearer: float = 1.0
) -> Levels | None:
    """The best rungs at which all promises hold, as alike as can be; None where they hold at no rung.

    For a device of which a share of `usable` (0..1) may be promised, and costs that are `dearer` times the model's.

    All sessions go down together, each no further than its last rung; then as many as can, in their order, go one up.
    """

    def holds(depths: Sequence[int]) -> bool:
        at = [(demand, demand.rungs[_bounded(demand, depth)]) for demand, depth in zip(demands, depths, strict=True)]
        return fits(tasks(at, cost, capacity, dearer), usable)

    def chosen(depth: int, higher: int) -> list[int]:
        return [depth - 1] * higher + [depth] * (len(demands) - higher)

    for depth in range(max((len(demand.rungs) for demand in demands), default=1)):
        if holds(chosen(depth, 0)):
            higher = _most([chosen(depth, count) for count in range(len(demands) + 1)] if depth else [], holds)
            rungs = zip(demands, chosen(depth, higher), strict=True)
            return {demand.session: _bounded(demand, rung) for demand, rung in rungs}
    return None


def lowest(demands: Sequence[Demand]) -> Levels:
    """Every session at its last rung."""
    return {demand.session: len(demand.rungs) - 1 for demand in demands}


def use(demands: Sequence[Demand], levels: Levels, cost: CostModel, capacity: Capacity) -> float:
    """Share of the device's time that is promised to the sessions at these rungs."""
    at = [(demand, demand.rungs[levels[demand.session]]) for demand in demands if not demand.batch]
    return sum(task.cost / task.period for task in tasks(at, cost, capacity))


def least(demand: Demand, cost: CostModel, capacity: Capacity) -> tuple[float, float, float]:
    """The share of the device that it asks for at its last rung, how soon it wants it, and memory: more is more."""
    (task,) = tasks([(demand, demand.rungs[-1])], cost, capacity)
    return (0.0 if demand.batch else task.cost / task.period), -demand.budget, demand.memory


def _bounded(demand: Demand, rung: int) -> int:
    return min(rung, len(demand.rungs) - 1)


def _most(choices: Sequence[Sequence[int]], holds: Callable[[Sequence[int]], bool]) -> int:
    """Index of the last of `choices` that holds. The first does, and where one does all before it do."""
    low, high = 0, max(0, len(choices) - 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(choices[middle]) else (low, middle - 1)
    return low


def shape_of(demand: Demand, quality: Quality) -> Shape:
    """Of the session's chunks at this quality."""
    return Shape(demand.chunk_frames, quality.width, quality.height, quality.vae)


def _task(demand: Demand, quality: Quality, alike: int, cost: CostModel, capacity: Capacity, dearer: float) -> Task:
    rates = cost.rates(shape_of(demand, quality))
    interval, steps = 1 / quality.fps, quality.steps
    service = careful(rates.sequential(steps), rates)
    length = chunk_length(demand.chunk_frames, interval, demand.budget, service)
    size = _batch_size(rates, steps, min(alike, capacity.max_batch))
    before, denoise, after = rates.stages(size, steps, steps * size)
    stages = dearer * before, dearer * denoise, dearer * after
    bottleneck = capacity.bottleneck(stages)
    through = sum(stages) - bottleneck
    slack = demand.budget - (length - 1) * interval - HANDOVER_S - through
    usual = rates.stages(min(size, USUAL_BATCH), steps, steps * min(size, USUAL_BATCH))
    return Task(bottleneck / size, length * interval, slack, capacity.bottleneck(usual))


def _batch_size(rates: Rates, steps: int, most: int) -> int:
    """How large a batch is worth while."""
    alone = rates.sequential(steps)
    saves = alone + rates.sequential(steps) - rates.batch(2, steps, 2 * steps) > SAVES * alone
    return most if saves else 1
