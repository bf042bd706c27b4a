"""The models: pipelines that turn frames into restyled frames. They know nothing of the service."""

from __future__ import annotations

from pipelines.registry import PRESETS, build, team

__all__ = ["PRESETS", "build", "team"]
