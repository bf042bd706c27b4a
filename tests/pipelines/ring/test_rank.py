"""A rank behind the first that cannot go on ends, so that the others notice."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from pipelines.ring.arrangement import Arrangement
from pipelines.ring.group import Group, Incoming, Line
from pipelines.ring.operations import Operation, Rows
from pipelines.ring.parts import stage_of
from pipelines.ring.rank import Rank
from pipelines.ring.times import RingTimes
from tests.pipelines.ring.test_ring import TINY


class Told:
    """Ties to a first rank that sends one pass, for which there is no memory."""

    rank, last, next = 1, 2, 2

    def enter_thread(self) -> None:
        pass

    def told(self) -> Operation:
        return Rows((4, 4), 1, (0,), (False,), (0,), (0,), (None,))

    def receive(self, line: Line, source: int, room: torch.Tensor) -> Incoming:
        raise torch.OutOfMemoryError("no memory for what comes")


@pytest.mark.timeout(20)
def test_a_rank_that_cannot_receive_raises() -> None:
    models, _ = TINY.rank(Arrangement((2, 2, 1)), 1)
    rank = Rank(cast(Group, Told()), stage_of(models, Arrangement((2, 2, 1)), 1), None)
    with pytest.raises(torch.OutOfMemoryError):
        rank.work()


def test_a_rank_without_blocks_reports_its_passes() -> None:
    """Else the block scheduler would never know what is done there beside blocks, and never move one again."""
    models, _ = TINY.rank(Arrangement((2, 0, 3)), 1)
    stage = stage_of(models, Arrangement((2, 0, 3)), 1)
    rows = Rows((4, 4), 1, (stage._cache((4, 4)).take(),), (False,), (0,), (0,), (None,))
    x = stage.room_for((1, 16, 48))
    assert stage.through(rows, x, stage.room_for((1, 6, 48))) is x
    report = stage.watch.report()
    times = RingTimes(3)
    observed = times.learn(report)
    assert observed is not None
    assert observed[0] is None
