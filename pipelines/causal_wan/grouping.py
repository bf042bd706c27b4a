"""Items that can be worked on together, group by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def grouped(items: Sequence[T], key: Callable[[T], object], run: Callable[[list[int]], Iterable[Any]]) -> list[Any]:
    """Calls `run` with the indices of the items of each key, and puts its results in the order of the items."""
    groups: defaultdict[object, list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        groups[key(item)].append(i)
    results: list[Any] = [None] * len(items)
    for at in groups.values():
        for i, result in zip(at, run(at), strict=True):
            results[i] = result
    return results
