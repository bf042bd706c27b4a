"""What a rank's ties hold on to."""

from __future__ import annotations

import time

from pipelines.ring.arrangement import Arrangement
from pipelines.ring.operations import Move
from tests.pipelines.ring.test_ring import TINY
from tests.support.ring import ring


def test_blocks_that_have_moved_away_are_let_go() -> None:
    with ring(TINY, Arrangement((3, 2))) as pipeline:
        its = pipeline.open(TINY.defaults)
        head = pipeline.head
        for _ in range(3):
            head.do(lambda: head.move(Move(2, 0, 1)))
            head.do(lambda: head.move(Move(2, 1, 0)))
        while held := head._group.leaving:
            time.sleep(0.01)
        assert held == 0
        pipeline.close(its)
