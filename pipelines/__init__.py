"""The models: pipelines that turn frames into restyled frames. They know nothing of the service."""

from __future__ import annotations

from pipelines.registry import PRESETS, build, share_cores

__all__ = ["PRESETS", "build", "share_cores"]
