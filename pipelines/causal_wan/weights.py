"""Weights into models, strictly: what is missing, extra or of another shape is an error that names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.causal_wan.tensorfile import Shape, open_tensors
from streamgen.errors import WeightsError

_SHOWN = 5

_CPU = torch.device("cpu")


def all_of_them(name: str) -> bool:
    """Every tensor is wanted."""
    del name
    return True


def load(model: nn.Module, path: Path, wanted: Callable[[str], bool] = all_of_them) -> dict[str, str]:
    """Fills `model` from a file of its own names, on the CPU, in the model's format. Returns the file's metadata.

    wanted: of which tensors, by name; the others stay as they are. Raises WeightsError.
    """
    if not path.is_file():
        raise WeightsError(
            f"weights not found: {path}; train them with scripts/train_tiny.py or install the package again"
        )
    file, expected = open_tensors(path), model.state_dict()
    check_fit(file.name, file.shapes, {name: tuple(tensor.shape) for name, tensor in expected.items()})
    kept = {name: tensor.dtype for name, tensor in expected.items() if wanted(name)}
    fill(model, {name: file.read(name, _CPU, dtype) for name, dtype in kept.items()}, wanted)
    return dict(file.metadata)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], wanted: Callable[[str], bool] = all_of_them) -> None:
    """Makes `tensors`, one for every parameter and buffer that is wanted, the model's own; nothing is copied.

    The model may be on torch's meta device: it is then where its tensors are, and what is not wanted stays there.
    """
    expected = {name for name in model.state_dict() if wanted(name)}
    assert tensors.keys() == expected, f"tensors for another part: {sorted(tensors.keys() ^ expected)[:3]}"
    model.load_state_dict(dict(tensors), strict=False, assign=True)
    model.requires_grad_(False)


def check_fit(name: str, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    """Raises WeightsError, naming the file `name` and its tensors, where `found` is not just what is `expected`."""
    problems = [
        *named("missing", (key for key in expected if key not in found)),
        *named("unknown", (key for key in found if key not in expected)),
        *named(
            "of another shape",
            (
                f"{key} {shape} instead of {expected[key]}"
                for key, shape in found.items()
                if key in expected and shape != expected[key]
            ),
        ),
    ]
    if problems:
        raise WeightsError(f"{name} does not fit the model: {'; '.join(problems)}")


def named(problem: str, keys: Iterable[str]) -> list[str]:
    """The problem with the first few of the keys that have it, as a list of one text, or of none."""
    found = list(keys)
    if not found:
        return []
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return [f"{problem}: {', '.join(found[:_SHOWN])}{more}"]
