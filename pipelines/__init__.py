"""The models: pipelines that turn frames into restyled frames. They know nothing of the service."""

from __future__ import annotations

from pipelines.registry import PRESETS, TEAM_PRELOAD, build, share_cores, team

__all__ = ["PRESETS", "TEAM_PRELOAD", "build", "share_cores", "team"]
