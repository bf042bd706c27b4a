"""The lives of a team, one after the other: formed of all its devices, or of those that are left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from streamgen.engine.backoff import Backoff
from streamgen.engine.crew import Crew
from streamgen.engine.frames import FrameMemory
from streamgen.engine.messages import one_line
from streamgen.engine.remote import RemoteStreams
from streamgen.engine.team import Devices, Muster
from streamgen.errors import EngineError, StreamgenError

logger = logging.getLogger(__name__)


class StartError(EngineError):
    """A team could not be started; `culprit` is the rank that failed at it, None where it was none in particular."""

    def __init__(self, message: str, culprit: int | None) -> None:
        super().__init__(message)
        self.culprit = culprit


class Lives:
    """Begins them. A device that cannot be started is left out in the end, and stays so."""

    def __init__(
        self, devices: Devices, slots: int, depth: int | None, start_timeout_s: float, backoff: Backoff
    ) -> None:
        """`slots` and `depth` as RemoteStreams takes them; `start_timeout_s` is what each may take to begin."""
        self._devices = devices
        self._slots = slots
        self._depth = depth
        self._start_timeout_s = start_timeout_s
        self._backoff = backoff
        self._muster = Muster(devices.names)

    async def first(self) -> RemoteStreams:
        """Raises EngineError where no device is left that another attempt could do without."""
        while True:
            try:
                return await self._begin(self._slots)
            except StartError as error:
                if error.culprit is None or len(self._muster.names) == 1:
                    raise
                logger.error("the engine cannot be started, trying again: %s", error.message)
                self._learn(error)

    async def next(self, lasted_s: float, *, fruitful: bool) -> tuple[RemoteStreams, Sequence[str]]:
        """Another one after a life that lasted so long, with as many attempts as it takes. A team that has been at work
        for a while is replaced at once; one that is lost again and again has to wait.

        `fruitful` is whether that life has done anything. Also returns the devices that are left out since.
        """
        left_out: list[str] = []
        if fruitful:
            self._backoff.reset()
        wait_s = self._backoff.wait(lasted_s)
        while True:
            await asyncio.sleep(wait_s)
            try:
                # The first life has measured what batches take. A stream that waits for its service again does not
                # wait for that.
                return await self._begin(1), left_out
            except EngineError as error:
                logger.error("the worker cannot be started (after a wait of %.1f s): %s", wait_s, error.message)
                left_out += self._learn(error)
            wait_s = self._backoff.wait()

    def _learn(self, error: EngineError) -> Sequence[str]:
        """The name of the device that this error was one too many of, if it was."""
        if not isinstance(error, StartError) or error.culprit is None:
            return ()
        name = self._muster.failed(error.culprit)
        if name is None:
            return ()
        self._backoff.reset()
        logger.error(
            "%s is left out until the service is started again; what is left: %s", name, ", ".join(self._muster.names)
        )
        return (name,)

    async def _begin(self, batch: int) -> RemoteStreams:
        """Raises EngineError that says why it cannot."""
        try:
            crew, memory = self._crew(batch)
        except (OSError, RuntimeError) as error:  # out of files, memory or threads
            raise EngineError(f"the worker cannot be started: {one_line(error)}") from None
        try:
            streams = await RemoteStreams.open(crew, memory, self._slots, self._depth, self._start_timeout_s)
        except EngineError as error:
            raise StartError(error.message, crew.culprit) from None
        except (OSError, RuntimeError) as error:  # as above
            raise EngineError(f"the worker cannot be started: {one_line(error)}") from None
        self._muster.started()
        return streams

    def _crew(self, batch: int) -> tuple[Crew, FrameMemory]:
        names = self._muster.names
        try:
            team = self._devices.team(names)
        except StreamgenError as error:
            raise EngineError(error.message) from None
        memory = FrameMemory()
        try:
            return Crew(names, team, memory, batch), memory
        except RuntimeError:
            memory.close()
            raise
