"""What a session wants, and what it gets of that now: its ladder of quality, and its rung."""

from __future__ import annotations

from streamgen.core import Params, PipelineSpec
from streamgen.scheduler.cost import Shape
from streamgen.scheduler.demand import Demand
from streamgen.scheduler.quality import Quality as Rung
from streamgen.scheduler.quality import at, ladder
from streamgen.wire import Quality


class Standing:
    """Belongs to one session."""

    def __init__(self, session_id: str, params: Params, spec: PipelineSpec) -> None:
        self.params = params
        """What the client wants."""
        self.running = params
        """What its chunks are run with: the same, at the present rung."""
        self.admitted = False
        self.promised = True
        """Whether its deadlines are to be kept."""
        self.rung = 0
        self._session_id = session_id
        self._spec = spec
        self.rungs = ladder(params, spec)
        """From what is wanted down."""

    @property
    def live(self) -> bool:
        """Whether its frames have deadlines that are to be kept."""
        return self.promised and self.params.priority == "live"

    def demand(self) -> Demand:
        """What it asks of the device."""
        return self._demand(self.params, self.rungs)

    def demand_for(self, params: Params) -> Demand:
        """What it would ask with other parameters."""
        return self._demand(params, ladder(params, self._spec))

    def shape(self, first: bool) -> Shape:
        """Of its next chunk, the first one of a stream or not."""
        running = self.running
        return Shape(self._spec.frames_wanted(first), running.width, running.height, running.vae)

    def want(self, params: Params) -> bool:
        """The client wants this from now on; whether its stream has to begin anew for it."""
        self.params, self.rungs = params, ladder(params, self._spec)
        self.rung = min(self.rung, len(self.rungs) - 1)
        return self._run()

    def stand_at(self, rung: int) -> bool:
        """It runs at this rung from now on; whether its stream has to begin anew for it."""
        self.rung = min(rung, len(self.rungs) - 1)
        return self._run()

    def told(self, reason: str) -> Quality:
        """What it gets, for the client."""
        quality = self.rungs[self.rung]
        return Quality(self.rung, len(self.rungs), *quality, reason)

    def _run(self) -> bool:
        before, self.running = self.running, at(self.params, self.rungs[self.rung])
        return before.made_for != self.running.made_for

    def _demand(self, params: Params, rungs: tuple[Rung, ...]) -> Demand:
        return Demand(
            session=self._session_id,
            rungs=rungs,
            chunk_frames=self._spec.chunk_frames,
            budget=params.slo_ms / 1000,
            batch=params.priority == "batch",
            memory=self._spec.states(params),
        )
