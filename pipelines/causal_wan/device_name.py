"""The name under which measured times of a device are kept. No torch."""

from __future__ import annotations


def device_name(model: str, dtype: str, *, compiled: bool) -> str:
    """What speed depends on, in words that stay the same from start to start: model, number format, compiled or not."""
    return f"{model}, {dtype}, {'compiled' if compiled else 'not compiled'}"
