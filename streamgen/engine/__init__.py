"""The engine: the model in a process of its own, supervised, behind one asyncio object."""

from __future__ import annotations

from streamgen.engine.engine import Engine, EngineState
from streamgen.engine.team import Devices, Team
from streamgen.engine.work import STATE_LOST, BatchDone, ChunkDone, ChunkWork, Mode, StageTimes, WarmupTimes

__all__ = [
    "STATE_LOST",
    "BatchDone",
    "ChunkDone",
    "ChunkWork",
    "Devices",
    "Engine",
    "EngineState",
    "Mode",
    "StageTimes",
    "Team",
    "WarmupTimes",
]
