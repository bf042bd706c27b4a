"""The engine: the model in a process of its own, supervised, behind one asyncio object."""

from __future__ import annotations

from streamgen.engine.engine import Engine, EngineState
from streamgen.engine.work import ChunkDone, ChunkWork, Mode

__all__ = ["ChunkDone", "ChunkWork", "Engine", "EngineState", "Mode"]
