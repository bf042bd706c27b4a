"""Which rung each session runs at, over time: down at once where promises are in danger, up only when all is calm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from streamgen.scheduler import demand as demand_
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import CostModel
from streamgen.scheduler.demand import Demand, Levels

USABLE = 0.9
"""Share of the device that promises may take."""

ROOMY = 0.75
"""Rungs are climbed again only where promises would take no more than this share."""

HOLD_S = 4.0
"""After any change rungs are not climbed for this long."""

MISSES = 0.02
"""Where more than this share of all frames is late although the model sees room, it sees too much of it."""

FEW = 16
"""Of fewer frames no share is taken."""

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
    changed: float = float("-inf")
    """When a rung or the set of sessions last changed (s)."""
    pressed: float = float("-inf")
    """When the pressure was last raised (s)."""
    at: float | None = None
    """When it last governed (s)."""

    @property
    def usable(self) -> float:
        """Share of the device, by the model's account, that promises may take."""
        return USABLE / self.pressure

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
        present = {
            demand.session: min(self.levels.get(demand.session, 0), len(demand.rungs) - 1) for demand in promised
        }
        at = [(demand, demand.rungs[present[demand.session]]) for demand in promised]
        if not demand_.fits(demand_.tasks(at, cost, capacity), pressed.usable):
            best = demand_.levels(promised, cost, capacity, pressed.usable) or demand_.lowest(promised)
            down = {session: max(rung, present[session]) for session, rung in best.items()}
            return _at(pressed, now, rest | down)
        settled = _at(pressed, now, rest | present)
        if now - settled.changed < HOLD_S:
            return settled
        better = demand_.levels(promised, cost, capacity, ROOMY / pressed.pressure)
        if better is not None and sum(better.values()) < sum(present.values()):
            return _at(settled, now, {**rest, **better})
        return settled

    def admits(self, newcomer: Demand, demands: Sequence[Demand], cost: CostModel, capacity: Capacity) -> bool:
        """Whether all promises, the newcomer's too, hold at some rung that each allows, and its state fits.

        One to whom nothing can be promised even when it is alone takes what the others leave, as a batch job does.
        """
        everyone = [*demands, newcomer]
        if capacity.sessions is not None and len(everyone) > capacity.sessions:
            return False
        if capacity.memory is not None and sum(demand.memory for demand in everyone) > capacity.memory:
            return False
        without = _hopeless(everyone, cost, capacity)
        promised = [demand for demand in everyone if demand.session not in without and not demand.batch]
        return demand_.levels(promised, cost, capacity, self.usable) is not None

    def _pressed(self, now: float, frames: int, missed: int) -> Governor:
        elapsed = 0.0 if self.at is None else now - self.at
        if frames < FEW or missed <= MISSES * frames:
            return replace(self, at=now, pressure=max(1.0, self.pressure * RELAXES_PER_S**elapsed))
        if now - self.pressed < SETTLES_S:
            return replace(self, at=now)
        return replace(self, at=now, pressed=now, pressure=min(MOST_PRESSURE, self.pressure * TIGHTER))


def _at(governor: Governor, now: float, levels: Levels) -> Governor:
    return governor if levels == governor.levels else replace(governor, levels=levels, changed=now)


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
