"""A size's caches on all ranks: there as long as a stream of that size is."""

from __future__ import annotations

from pipelines.ring.arrangement import Arrangement
from pipelines.ring.operations import Move
from tests.pipelines.ring.test_ring import TINY, Flowing, alone, asked, clip, same
from tests.support.ring import ring


def test_a_stream_that_has_not_begun_keeps_its_caches_when_the_others_are_closed() -> None:
    """Also where a block moves between: the pools are of one size on all ranks."""
    with ring(TINY, Arrangement((3, 2))) as pipeline:
        for move in (None, Move(2, 0, 1), Move(2, 1, 0)):
            first = pipeline.open(asked(1, 3))
            flowing = Flowing(pipeline)
            flowing.send(first, clip(1)[0])
            flowing.results()
            waiting = pipeline.open(asked(2, 2))
            pipeline.close(first)
            if move is not None:
                pipeline.head.do(lambda move=move: pipeline.head.move(move))  # type: ignore[misc]
            late = pipeline.open(asked(1, 2))
            for a, b in zip(clip(2), clip(1), strict=True):
                flowing.send(waiting, a)
                flowing.send(late, b)
            assert same(flowing.of(waiting), alone(TINY, 2, 2)[1])
            assert same(flowing.of(late), alone(TINY, 1, 2)[1])
            pipeline.close(waiting)
            pipeline.close(late)
            pipeline.close(late)
            assert not pipeline.head.do(lambda: pipeline._stage.caches)


def test_a_block_moves_to_the_first_rank_while_a_size_has_no_slots_yet() -> None:
    with ring(TINY, Arrangement((3, 2))) as pipeline:
        its = pipeline.open(asked(2, 2))
        for move in (Move(2, 0, 1), Move(2, 1, 0)):
            pipeline.head.do(lambda move=move: pipeline.head.move(move))  # type: ignore[misc]
        flowing = Flowing(pipeline)
        for chunk in clip(2):
            flowing.send(its, chunk)
        assert same(flowing.of(its), alone(TINY, 2, 2)[1])
