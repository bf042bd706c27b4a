"""Checkpoint files as tables of tensors: safetensors (one file, or shards under an index) and pickles of weights alone.

Names and shapes are known as soon as a file is open. A tensor is read when it is asked for, from the memory-mapped file
straight to its device and format, so that no second copy of the weights is ever held.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from streamgen.errors import WeightsError

Shape = tuple[int, ...]

INDEX_SUFFIX = ".safetensors.index.json"

_ZIP, _LEGACY_PICKLE, _JSON = b"PK\x03\x04", b"\x80", b"{"


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one checkpoint, in one file or in shards."""

    path: Path
    shapes: Mapping[str, Shape]
    metadata: Mapping[str, str]
    """Text that a safetensors file carries beside its tensors."""
    stored: Callable[[str], Tensor]
    """A tensor by name, on the CPU and as it is stored; mapped from the file, so nothing is copied yet."""

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The tensor `name` on its device and in its format; integer tensors keep theirs."""
        tensor = self.stored(name)
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    def renamed(self, names: Mapping[str, str]) -> TensorFile:
        """Only the tensors in `names`, which gives the name here of each new name."""
        return replace(
            self,
            shapes={new: self.shapes[old] for new, old in names.items()},
            stored=lambda new: self.stored(names[new]),
        )


def open_tensors(path: Path) -> TensorFile:
    """The checkpoint at `path`: a file, an index of shards, or a folder with one of either.

    What kind of file it is shows in its first bytes, not in its name. Tensors of a pickle's inner dictionaries are
    named `outer.inner`. Raises WeightsError, in one line that names the file and what is wrong with it.
    """
    if path.is_dir():
        path = _only_checkpoint(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise WeightsError(f"weights not found: {path}") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    if head.startswith((_ZIP, _LEGACY_PICKLE)):
        return _open_pickle(path, zipped=head.startswith(_ZIP))
    return _open_shards(path) if head.startswith(_JSON) else _open_safetensors(path)


def _only_checkpoint(folder: Path) -> Path:
    for pattern in (f"*{INDEX_SUFFIX}", "*.safetensors"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise WeightsError(f"{folder} holds several checkpoints; name one of {', '.join(f.name for f in found)}")
    raise WeightsError(f"no checkpoint (*{INDEX_SUFFIX} or *.safetensors) in {folder}")


def _open_safetensors(path: Path) -> TensorFile:
    try:
        file: Any = safe_open(path, framework="pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path.name} is no readable safetensors file: {_one_line(error)}") from error
    return TensorFile(path, shapes, dict(file.metadata() or {}), file.get_tensor)


def _open_shards(index: Path) -> TensorFile:
    try:
        shard_of: dict[str, str] = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{index.name} is no index of safetensors files: {_one_line(error)}") from error
    names = sorted(set(shard_of.values()))
    if strange := [name for name in names if Path(name).name != name]:
        raise WeightsError(f"{index.name} names a file outside its folder: {strange[0]}")
    if absent := [name for name in names if not (index.parent / name).is_file()]:
        raise WeightsError(f"{index.name} needs {', '.join(absent)} beside it")
    shards = {name: _open_safetensors(index.parent / name) for name in names}
    for tensor, shard in shard_of.items():
        if tensor not in shards[shard].shapes:
            raise WeightsError(f"{shard} lacks {tensor}, which {index.name} promises")
    for name, file in shards.items():
        if unlisted := [tensor for tensor in file.shapes if shard_of.get(tensor) != name]:
            raise WeightsError(f"{name} holds {unlisted[0]}, which {index.name} does not list there")
    shapes = {tensor: shards[shard].shapes[tensor] for tensor, shard in shard_of.items()}
    return TensorFile(index, shapes, {}, lambda tensor: shards[shard_of[tensor]].stored(tensor))


def _open_pickle(path: Path, *, zipped: bool) -> TensorFile:
    if zipped and not zipfile.is_zipfile(path):
        raise WeightsError(f"{path.name} is cut off: its end is missing ({path.stat().st_size} bytes are there)")
    try:  # only zipped pickles can be mapped; the old kind is read whole
        with warnings.catch_warnings():  # of protocols other than its own: what it cannot read, it refuses anyway
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", mmap=zipped, weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path.name} {_refusal(path, zipped)}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path.name} is no readable pickle of weights: {_one_line(error)}") from error
    tensors = _flat(content)
    if not tensors:
        raise WeightsError(f"{path.name} holds no named tensors")
    return TensorFile(path, {name: tuple(t.shape) for name, t in tensors.items()}, {}, tensors.__getitem__)


def _refusal(path: Path, zipped: bool) -> str:
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    if names:
        return f"is refused: it holds code ({', '.join(sorted(names)[:3])}), not weights alone"
    return "is refused: it is damaged, or holds code besides weights"


def _flat(content: Any) -> dict[str, Tensor]:
    """Tensors of a dictionary and of the dictionaries in it."""
    if not isinstance(content, Mapping):
        return {}
    flat: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            flat[str(name)] = value.detach()
        elif isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": t.detach() for inner, t in value.items() if isinstance(t, Tensor)})
    return flat


def _one_line(error: BaseException) -> str:
    """What an error of a library says, without the lines that follow it."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
