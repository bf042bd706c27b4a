"""What is compared: a policy, with what it may do beside planning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamgen.core import LOWERED, Params
from streamgen.scheduler import policy
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import CostModel
from streamgen.scheduler.demand import Demand
from streamgen.scheduler.governor import Governor
from streamgen.scheduler.loop import Planner
from streamgen.simulation.baselines import batched, fifo, fixed_batch


class OpenDoor(Governor):
    """A governor that admits everybody."""

    def admits(self, newcomer: Demand, demands: Sequence[Demand], cost: CostModel, capacity: Capacity) -> bool:
        """Always."""
        return True


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to run sessions."""

    name: str
    title: str
    planner: Planner = policy.plan
    ladder: bool = False
    """Whether quality may be lowered."""
    admission: bool = False
    """Whether sessions may have to wait, or be refused."""
    drops: bool = True
    """Whether frames may be given up at all."""

    @property
    def governor(self) -> Governor:
        """To begin with."""
        return Governor() if self.admission else OpenDoor()

    def of(self, params: Params) -> Params:
        """What a session asks for here."""
        return params if self.ladder else params.updated({"keep": ",".join(LOWERED)})


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("deadline", "the policy: deadlines and dropping only"),
        Contender("ladder", "the policy, and lower quality under load", ladder=True),
        Contender("admission", "the policy, and admission", admission=True),
        Contender("full", "the policy, lower quality and admission: the service", ladder=True, admission=True),
        Contender("fifo", "chunk by chunk as they come, nothing is dropped: the paper's code", fifo, drops=False),
        Contender("newest", "chunk by chunk as they come, the newest frames win", fifo),
        Contender("batched", "as they come, in batches of what is there; nothing is dropped", batched, drops=False),
        Contender("fixed", "as they come, in full batches; nothing is dropped", fixed_batch, drops=False),
    )
}
