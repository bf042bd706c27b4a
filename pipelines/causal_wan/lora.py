"""LoRA files for Wan: read, merged into a model's weights, and taken out again without a trace.

Namings that are found: `lora_A`/`lora_B` (peft, Diffusers), `lora_down`/`lora_up` with `alpha` (kohya), and plain
differences (`diff`, `diff_b`, `diff_m`); modules by Wan's names or Diffusers', with dots or flattened to underscores,
behind prefixes such as `diffusion_model.`, `transformer.` or `lora_unet_`. A key that does not fit is an error.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from pipelines.causal_wan.checkpoints import to_diffusers, wan_shapes
from pipelines.causal_wan.dit import CausalWanModel
from pipelines.causal_wan.geometry import DiTGeometry
from pipelines.causal_wan.layouts import from_wan
from pipelines.causal_wan.tensorfile import Shape, TensorFile, open_tensors
from pipelines.causal_wan.weights import named
from streamgen.errors import WeightsError

_PREFIX = re.compile(r"^(?:base_model\.model\.|diffusion_model\.|transformer\.|model\.|lora_unet_|lora_transformer_)+")

_LOW_RANK = re.compile(r"^(.+)\.lora_(A|B|down|up)(?:\.\w+)?\.weight$")

_SIDE = {"A": "down", "B": "up", "down": "down", "up": "up"}

_PLAIN = re.compile(r"^(.+)\.(alpha|diff|diff_b|diff_m)$")

_DIFFERENCE_OF = {"diff": "weight", "diff_b": "bias", "diff_m": "modulation"}

_BLOCK = re.compile(r"^blocks\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class Change:
    """What a LoRA adds to one tensor of Wan's own layout: scale * up @ down, or a plain difference."""

    up: Tensor
    """(rows, rank), or the difference."""
    down: Tensor | None
    """(rank, columns)."""
    scale: float

    def of(self, shape: Shape, device: torch.device) -> Tensor:
        """The change at full strength, float32."""
        up = self.up.to(device)
        return (up if self.down is None else self.scale * (up @ self.down.to(device))).reshape(shape)


@dataclass(frozen=True, eq=False)
class LoRA:
    """A LoRA file's changes, by the names of Wan's own layout."""

    name: str
    geometry: DiTGeometry
    """Of the models that it fits."""
    changes: Mapping[str, Change]


@dataclass
class _Entry:
    """What a file holds for one module: its keys, by their kind (up, down, alpha, diff...)."""

    keys: dict[str, str] = field(default_factory=dict)

    def halves(self) -> list[str]:
        """Keys that mean nothing without others that are not there."""
        parts = [kind for kind in ("down", "up", "alpha") if kind in self.keys]
        return [] if {"down", "up"} <= set(parts) else [self.keys[kind] for kind in parts]


def load_lora(path: Path, geometry: DiTGeometry) -> LoRA:
    """The LoRA of a file, checked against a geometry. Raises WeightsError that names the keys that do not fit."""
    file, shapes = open_tensors(path), wan_shapes(geometry)
    entries, unknown = _entries(file, shapes)
    changes: dict[str, Change] = {}
    wrong: list[str] = []
    for module, entry in entries.items():
        for name, change in _changes(file, module, entry):
            if name not in shapes:
                unknown.extend(entry.keys.values())
            elif misfit := _misfit(change, shapes[name]):
                wrong.append(f"{name} {misfit}")
            else:
                changes[name] = change
    halves = [key for entry in entries.values() for key in entry.halves()]
    problems = [
        *named("unknown", unknown),
        *named("without their other half", halves),
        *named("of another shape", wrong),
    ]
    if problems:
        raise WeightsError(f"{file.name} does not fit the model: {'; '.join(problems)}")
    return LoRA(file.name, geometry, changes)


def _entries(file: TensorFile, shapes: Mapping[str, Shape]) -> tuple[dict[str, _Entry], list[str]]:
    """The file's keys by module, and those of no module."""
    modules = _module_names(shapes)
    entries: defaultdict[str, _Entry] = defaultdict(_Entry)
    unknown: list[str] = []
    for key in file.shapes:
        stripped = _PREFIX.sub("", key)
        low_rank, plain = _LOW_RANK.match(stripped), _PLAIN.match(stripped)
        match = low_rank or plain
        module = modules.get(match[1]) if match else None
        if match is None or module is None or not _plausible(file.shapes[key], match[2]):
            unknown.append(key)
        else:
            entries[module].keys[_SIDE[match[2]] if low_rank else match[2]] = key
    return dict(entries), unknown


def _plausible(shape: Shape, kind: str) -> bool:
    """Whether a tensor of this shape can be what its name says: a number, a matrix, or anything for a difference."""
    if kind == "alpha":
        return torch.Size(shape).numel() == 1
    return kind not in _SIDE or len(shape) >= 2


def _module_names(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Every name that a module of Wan may have in a LoRA file, with its own."""
    names: dict[str, str] = {}
    for tensor in shapes:
        module = tensor.rpartition(".")[0]
        for alias in (module, to_diffusers(tensor).rpartition(".")[0]):
            names[alias] = names[alias.replace(".", "_")] = module
    return names


def _changes(file: TensorFile, module: str, entry: _Entry) -> Iterator[tuple[str, Change]]:
    def read(kind: str) -> Tensor:
        return file.read(entry.keys[kind], torch.device("cpu"), torch.float32)

    if {"up", "down"} <= set(entry.keys):
        up, down = read("up").flatten(1), read("down").flatten(1)
        alpha = read("alpha").item() if "alpha" in entry.keys else float(len(down))
        yield f"{module}.weight", Change(up, down, alpha / len(down))
    for kind, tensor in _DIFFERENCE_OF.items():
        if kind in entry.keys:
            yield f"{module}.{tensor}", Change(read(kind), None, 1.0)


def _misfit(change: Change, shape: Shape) -> str | None:
    """What is wrong with a change's shapes for a tensor of `shape`, or None."""
    if change.down is None:
        fits = change.up.numel() == torch.Size(shape).numel()
        return None if fits else f"{tuple(change.up.shape)} instead of {shape}"
    rows, columns = shape[0], torch.Size(shape[1:]).numel()
    (up_rows, up_rank), (down_rank, down_columns) = change.up.shape, change.down.shape
    if (up_rows, down_columns) == (rows, columns) and up_rank == down_rank:
        return None
    return f"({up_rows}, {up_rank}) x ({down_rank}, {down_columns}) instead of ({rows}, rank) x (rank, {columns})"


class MergedLoRAs:
    """The LoRAs merged into a model's weights.

    Weights are always their originals plus the sum of what is merged, rounded once. The originals of the tensors that
    are changed are kept in the host's memory, so that a model without LoRAs is bit for bit what it was. Weights are
    changed in place: what holds them (a compiled graph) stays valid. Not to be called while the model runs.
    """

    def __init__(self, model: CausalWanModel) -> None:
        self._model = model
        self._strengths: dict[LoRA, float] = {}
        self._originals: dict[str, Tensor] = {}

    @property
    def strengths(self) -> Mapping[str, float]:
        """What is merged, by name, and how strongly."""
        return {lora.name: strength for lora, strength in self._strengths.items()}

    def merge(self, lora: LoRA, strength: float = 1.0) -> None:
        """Adds `lora`, or gives it another strength. Raises ValueError where it is made for another model."""
        if lora.geometry != self._model.geometry:
            raise ValueError(f"{lora.name} was loaded for another model")
        self._change({**self._strengths, lora: strength})

    def unmerge(self, lora: LoRA) -> None:
        """Takes `lora` out. Raises ValueError where it is not merged."""
        if lora not in self._strengths:
            raise ValueError(f"{lora.name} is not merged")
        self._change({other: strength for other, strength in self._strengths.items() if other is not lora})

    def _change(self, strengths: dict[LoRA, float]) -> None:
        """Applies these in place of what is merged; where that fails (no memory left), everything is as it was."""
        before, self._strengths = self._strengths, strengths
        try:
            self._apply()
        except BaseException:
            self._strengths = before
            self._apply()
            raise

    @torch.no_grad()
    def _apply(self) -> None:
        parameters = dict(self._model.named_parameters())
        changed = set()
        for name, change in self._sums():
            parameter = parameters[name]
            if parameter.is_meta:
                continue  # another device has it
            original = self._originals.setdefault(name, parameter.detach().to("cpu", copy=True))
            parameter.copy_(original.to(parameter.device, torch.float32) + change)
            changed.add(name)
        for name in self._originals.keys() - changed:
            parameters[name].copy_(self._originals.pop(name))

    def _sums(self) -> Iterator[tuple[str, Tensor]]:
        """The sum of all changes of each tensor of the model that has any, float32.

        The model's layout is linear in Wan's (joined, reordered rows), so changes go there by the same way as weights:
        one block at a time, nothing changed in all the rest.
        """
        blocks: defaultdict[str, list[tuple[str, Change, float]]] = defaultdict(list)
        for lora, strength in self._strengths.items():
            for name, change in lora.changes.items():
                block = _BLOCK.match(name)
                blocks[block[0] if block else ""].append((name, change, strength))
        device = next(self._model.parameters()).device
        for prefix, changes in blocks.items():
            geometry = replace(self._model.geometry, layers=1 if prefix else 0)
            there = "blocks.0." if prefix else ""
            shapes = wan_shapes(geometry)
            sums: dict[str, Tensor] = {}
            for name, change, strength in changes:
                local = there + name.removeprefix(prefix)
                summand = strength * change.of(shapes[local], device)
                sums[local] = sums[local] + summand if local in sums else summand
            state = {name: sums.get(name, _zeros(shape, device)) for name, shape in shapes.items()}
            for name, change_of_ours in from_wan(state, geometry).items():
                if name.startswith(there) and change_of_ours.any():
                    yield prefix + name.removeprefix(there), change_of_ours


def _zeros(shape: Shape, device: torch.device) -> Tensor:
    """Zeros that take no memory."""
    return torch.zeros((), device=device).expand(shape)
