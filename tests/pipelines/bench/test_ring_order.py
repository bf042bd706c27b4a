from __future__ import annotations

import itertools
from collections import deque

import pytest

from pipelines.bench.ring_order import StreamBatchEntrance
from pipelines.ring.entrance import Traveller


def passes(chunks: int, steps: int, ranks: int) -> list[list[tuple[int, int]]]:
    """(chunk, step) of the rows of each pass, with new chunks always at hand and `ranks` passes under way."""
    entrance: StreamBatchEntrance[None] = StreamBatchEntrance(ranks)
    for number in range(chunks):
        entrance.come(Traveller(None, 0, number, steps, alone=False, kind="all alike"))
    sent: list[list[tuple[int, int]]] = []
    flying: deque[list[Traveller[None]]] = deque()
    while True:
        while len(flying) < ranks and (rows := entrance.next(1)):
            sent.append([(row.number, row.sent - 1) for row in rows])
            flying.append(rows)
        if not flying:
            return sent
        for row in flying.popleft():
            if row.sent < steps:
                assert entrance.back(row)


@pytest.mark.parametrize(("steps", "ranks"), [(1, 3), (2, 2), (4, 2), (3, 4)])
def test_in_the_steady_state_a_batch_holds_a_row_of_each_step(steps: int, ranks: int) -> None:
    sent = passes(60, steps, ranks)
    for batch in sent[ranks * (steps - 1) : -ranks * steps]:
        assert sorted(step for _, step in batch) == list(range(steps))
        numbers = [chunk for chunk, _ in batch]
        assert numbers == sorted(numbers)
        assert all(b - a == ranks for a, b in itertools.pairwise(numbers))


def test_every_chunk_takes_all_its_steps_in_order() -> None:
    taken: dict[int, list[int]] = {}
    for batch in passes(17, 3, 4):
        for chunk, step in batch:
            taken.setdefault(chunk, []).append(step)
    assert taken == {chunk: [0, 1, 2] for chunk in range(17)}
