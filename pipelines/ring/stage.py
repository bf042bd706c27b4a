"""The part of a DiT that a rank runs: its blocks, and what the KV caches hold of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.causal_wan.cache import LAYER_TENSORS, RollingKVCache
from pipelines.causal_wan.dit import CausalWanModel, LayerContext, TextContext, join_contexts
from pipelines.causal_wan.geometry import CacheGeometry
from pipelines.ring.operations import Copy, Drop, GiveBack, Grid, Rows, Take
from pipelines.ring.packing import SIDE
from pipelines.ring.watch import Watch


@dataclass(slots=True, eq=False)
class Told:
    """A prompt as a rank knows it."""

    embedded: Tensor
    weights: Tensor | None
    layers: dict[int, LayerContext]
    together: TextContext
    """Of the rank's layers; always the same list for the same, by which rows of one prompt are known."""


class Stage:
    """Some consecutive blocks of a DiT. All other blocks of `model` are on torch's meta device."""

    def __init__(
        self,
        model: CausalWanModel,
        layers: Sequence[int],
        cache: CacheGeometry,
        device: torch.device,
        dtype: torch.dtype,
        watch: Watch,
    ) -> None:
        self.model = model
        self.layers = list(layers)
        self.watch = watch
        self.device = device
        self.dtype = dtype
        self.caches: dict[Grid, RollingKVCache] = {}
        self._cache_geometry = cache
        self._contexts: dict[int, Told] = {}

    def slots(self, operation: Take | GiveBack | Copy | Drop) -> None:
        """Does with the caches of its blocks what the first rank did with its own."""
        match operation:
            case Take(grid, slot):
                taken = self._cache(grid).take()
                assert taken == slot, f"slot {taken} was free here, and {slot} on the first rank"
            case GiveBack(grid, slot):
                self._cache(grid).give_back(slot)
            case Copy(grid, slot, to):
                self._cache(grid).copy(slot, to)
            case Drop(grid):
                self.caches.pop(grid, None)  # there is none where its streams were closed before they began

    def learn(self, context: int, embedded: Tensor, weights: Tensor | None) -> None:
        """A prompt, embedded."""
        on = None if weights is None else weights.to(self.device)
        self._contexts[context] = Told(embedded.to(self.device), on, {}, [])

    def forget(self, context: int) -> None:
        """A prompt that is not needed any more."""
        del self._contexts[context]

    def through(self, rows: Rows, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (rows, tokens, dim) of a pass through the blocks."""
        step = self._cache(rows.grid).begin(rows.slots, rows.again, rows.frames)
        if not self.layers:
            with self.watch.span("blocks", 0, len(rows.slots)):
                return x
        context = join_contexts([self._context(number) for number in rows.contexts])
        with self.watch.span("blocks", len(self.layers) * len(rows.slots), len(rows.slots)):
            return self.model.through(self.layers, x, modulation, context, step)

    def give(self, layer: int) -> list[Tensor]:
        """A block that moves away: its weights and what the caches hold of it, which are no more here."""
        block = self.model.blocks[layer]
        tensors = [tensor.detach() for tensor in block.state_dict().values()]
        for _, cache in sorted(self.caches.items()):
            tensors += cache.layer(layer)
            cache.drop_layer(layer)
        block.to("meta")
        self.layers.remove(layer)
        for told in self._contexts.values():
            told.layers.pop(layer, None)
            told.together = []
        return tensors

    def room(self, layer: int) -> list[Tensor]:
        """Room for what `give` gives on another rank."""
        shapes = self.model.blocks[layer].state_dict().values()
        rooms = [torch.empty(meta.shape, dtype=self.dtype, device=self.device) for meta in shapes]
        return rooms + [room for _, cache in sorted(self.caches.items()) for room in cache.empty_layer()]

    def adopt(self, layer: int, tensors: Sequence[Tensor]) -> None:
        """A block that has come from a neighbour."""
        block = self.model.blocks[layer]
        names = list(block.state_dict())
        block.load_state_dict(dict(zip(names, tensors, strict=False)), strict=True, assign=True)
        block.requires_grad_(False)
        kept = list(tensors[len(names) :])
        for _, cache in sorted(self.caches.items()):
            cache.adopt(layer, kept[:LAYER_TENSORS])
            kept = kept[LAYER_TENSORS:]
        self.layers = sorted([*self.layers, layer])

    def room_for(self, shape: Sequence[int]) -> Tensor:
        """Memory for a tensor that is awaited or made, in the model's format."""
        return torch.empty(tuple(shape), dtype=self.dtype, device=self.device)

    def message_shape(self, rows: Rows) -> tuple[int, ...]:
        """Of what goes from rank to rank."""
        height, width = rows.grid
        return len(rows.slots), rows.frames * height * width + SIDE, self.model.geometry.dim

    def prediction_shape(self, rows: Rows) -> tuple[int, ...]:
        """Of what comes of a pass in the end: (rows, C, frames, h, w)."""
        g = self.model.geometry
        size = (n * edge for n, edge in zip((rows.frames, *rows.grid), g.patch, strict=True))
        return len(rows.slots), g.latent_channels, *size

    def _cache(self, grid: Grid) -> RollingKVCache:
        if grid not in self.caches:
            self.caches[grid] = RollingKVCache(
                self.model.geometry, self._cache_geometry, grid, self.device, self.dtype, self.layers
            )
        return self.caches[grid]

    def _context(self, number: int) -> TextContext:
        told = self._contexts[number]
        missing = [layer for layer in self.layers if layer not in told.layers]
        if missing:
            made = self.model.layers_context(missing, told.embedded, told.weights)
            told.layers.update(zip(missing, made, strict=True))
        if missing or len(told.together) != len(self.layers):
            told.together = [told.layers[layer] for layer in self.layers]
        return told.together
