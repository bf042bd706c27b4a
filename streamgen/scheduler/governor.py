"""Which rung each session runs at, over time: down at once where promises are in danger, up only when all is calm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from streamgen.scheduler import demand as demand_
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import CostModel
from streamgen.scheduler.demand import Demand, Levels, shape_of

USABLE = 0.9
"""Share of the device that promises may take."""

ROOMY = 0.84
"""Rungs are climbed again only where promises would take no more than this share."""

HOLD_S = 4.0
"""After any change rungs are not climbed for this long."""

REGRET_S = 20.0
"""A climb that is taken back within this time was a mistake: the next one waits twice as long, each time."""

LONGEST_HOLD_S = 64.0

MISSES = 0.02
"""Where more than this share of all frames is late although the model sees room, it sees too much of it."""

FEW = 32
"""Of fewer frames no share is taken: they are counted on."""

TIGHTER = 1.15
"""Its word is then trusted less by this factor."""

SETTLES_S = 2.0
"""What was changed shows in the misses this much later."""

RELAXES_PER_S = 0.985
MOST_PRESSURE = 3.0


@dataclass(frozen=True, slots=True)
class Governor:
    """The rungs of all sessions, and how far the model's word is trusted. A value: `governed` gives the next."""

    levels: Levels = field(default_factory=dict)
    pressure: float = 1.0
    """Costs are taken for so many times what the model says: it is fitted to the engine, and blind to the rest."""
    hopeless: frozenset[str] = frozenset()
    """Sessions to whom nothing can be promised, not even on an idle device: they run last, at their last rung."""
    hold: float = HOLD_S
    """After a change rungs are not climbed for this long now (s)."""
    climbed: float = float("-inf")
    """When one was climbed last (s)."""
    changed: float = float("-inf")
    """When a rung or the set of sessions last changed (s)."""
    pressed: float = float("-inf")
    """When the pressure was last raised (s)."""
    at: float | None = None
    """When it last governed (s)."""
    frames: int = 0
    """That were due since misses were last weighed."""
    missed: int = 0

    def governed(
        self,
        now: float,
        demands: Sequence[Demand],
        cost: CostModel,
        capacity: Capacity,
        *,
        frames: int = 0,
        missed: int = 0,
    ) -> Governor:
        """The rungs from now on. `frames` were due since the last call, and `missed` of them were late or lost."""
        pressed = replace(self._pressed(now, frames, missed), hopeless=_hopeless(demands, cost, capacity))
        promised = [demand for demand in demands if demand.session not in pressed.hopeless and not demand.batch]
        rest = {demand.session: 0 if demand.batch else len(demand.rungs) - 1 for demand in demands}
        levels = {**rest, **_rungs(pressed, now, promised, cost, capacity)}
        moves = [levels[session] - rung for session, rung in self.levels.items() if session in levels]
        up, down = any(move < 0 for move in moves), any(move > 0 for move in moves)
        hold = self.hold
        if down and now - self.climbed < REGRET_S:
            hold = min(LONGEST_HOLD_S, 2 * hold)
        elif self.changed == self.climbed and now - self.climbed > REGRET_S:
            hold = HOLD_S
        changed, climbed = now if up or down else self.changed, now if up else self.climbed
        return replace(pressed, levels=levels, changed=changed, climbed=climbed, hold=hold)

    def admits(self, newcomer: Demand, demands: Sequence[Demand], cost: CostModel, capacity: Capacity) -> bool:
        """Whether all promises, the newcomer's too, hold at some rung that each allows, and its state fits.

        Costs that are not known well are taken for higher. One to whom nothing can be promised even when it is alone
        takes what the others leave, as a batch job does.
        """
        everyone = [*demands, newcomer]
        if capacity.sessions is not None and len(everyone) > capacity.sessions:
            return False
        if capacity.memory is not None and sum(demand.memory for demand in everyone) > capacity.memory:
            return False
        without = _hopeless(everyone, cost, capacity)
        promised = [demand for demand in everyone if demand.session not in without and not demand.batch]
        doubt = cost.rates(shape_of(newcomer, newcomer.rungs[-1])).error
        return demand_.levels(promised, cost, capacity, USABLE, self.pressure * (1 + doubt)) is not None

    def _pressed(self, now: float, frames: int, missed: int) -> Governor:
        """Weighs the misses once there are frames enough to tell."""
        if not self.levels:
            return replace(self, at=now, frames=0, missed=0, pressure=1.0)
        frames, missed = self.frames + frames, self.missed + missed
        elapsed = 0.0 if self.at is None else now - self.at
        relaxed = max(1.0, self.pressure * RELAXES_PER_S**elapsed)
        if frames < FEW:
            return replace(self, at=now, frames=frames, missed=missed, pressure=relaxed)
        if missed <= MISSES * frames:
            return replace(self, at=now, frames=0, missed=0, pressure=relaxed)
        if now - self.pressed < SETTLES_S:
            return replace(self, at=now, frames=0, missed=0)
        raised = min(MOST_PRESSURE, self.pressure * TIGHTER)
        return replace(self, at=now, frames=0, missed=0, pressed=now, pressure=raised)


def _rungs(governor: Governor, now: float, promised: Sequence[Demand], cost: CostModel, capacity: Capacity) -> Levels:
    """Down at once where the present rungs do not hold; up where better ones have room to spare."""
    present = {
        demand.session: min(governor.levels.get(demand.session, 0), len(demand.rungs) - 1) for demand in promised
    }
    at = [(demand, demand.rungs[present[demand.session]]) for demand in promised]
    if not demand_.fits(demand_.tasks(at, cost, capacity, governor.pressure), USABLE):
        best = demand_.levels(promised, cost, capacity, USABLE, governor.pressure) or demand_.lowest(promised)
        return {session: max(rung, present[session]) for session, rung in best.items()}
    if now - governor.changed < governor.hold:
        return present
    better = demand_.levels(promised, cost, capacity, ROOMY, governor.pressure)
    return better if better is not None and sum(better.values()) < sum(present.values()) else present


def _hopeless(demands: Sequence[Demand], cost: CostModel, capacity: Capacity) -> frozenset[str]:
    """Sessions to whom nothing can be promised, not even on an idle device."""
    verdicts: dict[tuple[object, ...], bool] = {}
    found = set()
    for demand in demands:
        kind = demand.rungs, demand.chunk_frames, demand.budget
        if kind not in verdicts:
            verdicts[kind] = demand_.levels([demand], cost, capacity, USABLE) is None
        if verdicts[kind] and not demand.batch:
            found.add(demand.session)
    return frozenset(found)
