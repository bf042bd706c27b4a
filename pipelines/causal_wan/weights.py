"""Loading weights, strictly: what is missing, extra or of another shape is an error that names it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from streamgen.errors import WeightsError

_SHOWN = 5


def load(model: nn.Module, path: Path) -> dict[str, str]:
    """Fills `model` from the safetensors file, in the model's dtype. Returns its metadata. Raises WeightsError."""
    tensors, metadata = _read(path)
    expected = model.state_dict()
    problems = [
        *_named("missing", [key for key in expected if key not in tensors]),
        *_named("unknown", [key for key in tensors if key not in expected]),
        *_named("of another shape", [
            f"{key} {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
            for key, value in tensors.items() if key in expected and value.shape != expected[key].shape
        ]),
    ]  # fmt: skip
    if problems:
        raise WeightsError(f"{path.name} does not fit the model: {'; '.join(problems)}")
    model.load_state_dict({key: value.to(expected[key].dtype) for key, value in tensors.items()}, assign=True)
    return metadata


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise WeightsError(
            f"weights not found: {path}; train them with scripts/train_tiny.py or install the package again"
        )
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path.name} is no readable safetensors file: {error}") from error


def _named(problem: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return [f"{problem}: {', '.join(keys[:_SHOWN])}{more}"]
