"""How much a device, or a fleet of them, can take on: by simulating it with more and more sessions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from streamgen.core import Params, PipelineSpec
from streamgen.simulation.contender import CONTENDERS, Contender
from streamgen.simulation.device import Device
from streamgen.simulation.outcome import Outcome
from streamgen.simulation.run import Run, simulate
from streamgen.simulation.trace import Visit, coming, jittery
from streamgen.simulation.workload import offered

MISSES = 0.01
"""Of all frames as many may miss their deadline."""

TURNED_AWAY = 0.01
"""Of all sessions as many may have to wait, or be refused."""

ALIKE = 16
"""Sessions that a first estimate is made from: as many as batches could ever want."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is planned for: how many sessions like this a device takes."""

    params: Params
    device: Device
    spec: PipelineSpec
    ladder: bool = False
    """Whether quality may be lowered for more of them."""
    seconds: float = 40.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The largest number of sessions that hold the promises, and how they fare."""

    sessions: int
    outcome: Outcome | None
    """None where not even one can be promised anything."""


def sessions_per_device(question: Question) -> Answer:
    """The most sessions, all there all the time, of which at most MISSES of the frames are late or lost."""

    def outcome(count: int) -> Outcome:
        visits = jittery([question.params] * count, question.seconds, Random(f"visits {question.seed}"))
        return simulate(_run(question, CONTENDERS["ladder" if question.ladder else "deadline"], visits, 1))

    return _most(question, outcome, lambda its: its.miss_rate <= MISSES)


def sessions_per_device_of_fleet(question: Question, devices: int, stay_s: float) -> Answer:
    """The most sessions of a device in the mean, where they come at random to the emptiest of `devices` devices, and
    stay for `stay_s` (s) in the mean: at most MISSES of the frames late or lost, and TURNED_AWAY of the sessions
    not let in at once.
    """

    def outcome(count: int) -> Outcome:
        wanted = [question.params] * (count * devices)
        visits = coming(wanted, question.seconds, Random(f"visits {question.seed}"), stay_s, lambda _: 1.0)
        return simulate(_run(question, CONTENDERS["full" if question.ladder else "admission"], visits, devices))

    def good(its: Outcome) -> bool:
        return its.miss_rate <= MISSES and its.queued + its.refused <= TURNED_AWAY * (its.sessions + its.refused)

    return _most(question, outcome, good)


def devices_for(sessions: int, per_device: int) -> int:
    """How many devices `sessions` sessions need at so many on each."""
    return math.ceil(sessions / per_device)


def _run(question: Question, contender: Contender, visits: list[Visit], devices: int) -> Run:
    warm_up_s = question.seconds / 4
    return Run(
        contender,
        visits,
        question.device,
        question.seconds,
        warm_up_s,
        question.seed,
        question.spec,
        devices=devices,
    )


def _most(question: Question, outcome: Callable[[int], Outcome], good: Callable[[Outcome], bool]) -> Answer:
    """The largest number whose outcome is good, taking it that fewer are no worse."""
    low, best = 0, None
    each = offered([question.params] * ALIKE, question.device, question.spec) / ALIKE
    high = max(2, math.ceil((8 if question.ladder else 2) / each))
    while low + 1 < high:
        middle = (low + high) // 2
        its = outcome(middle)
        if good(its):
            low, best = middle, its
        else:
            high = middle
    return Answer(low, best)
