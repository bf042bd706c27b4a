"""The first rank when something goes wrong: everybody who waits is told, once."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch

from pipelines.ring.arrangement import Arrangement
from pipelines.ring.operations import Report
from pipelines.ring.pipeline import RingPipeline
from streamgen.core import Arrived
from streamgen.errors import DeviceLostError, EngineError
from tests.pipelines.ring.test_ring import TINY, Flowing, alone, asked, clip, same
from tests.support.ring import ring


def failing_at(calls: int, method: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """`method`, which raises at its call with this number, from 1."""
    left = iter([False] * (calls - 1) + [True])

    def called(*args: Any, **kwargs: Any) -> Any:
        if next(left, False):
            raise error
        return method(*args, **kwargs)

    return called


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("place", ["tell", "send", "receive"])
def test_chunks_that_are_just_being_sent_when_a_rank_is_lost_arrive_with_the_loss(
    place: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: dict[int, int] = {}
    with ring(TINY, Arrangement((3, 2)), pids=pids) as pipeline:
        came: queue.SimpleQueue[Arrived] = queue.SimpleQueue()
        its, group = pipeline.open(asked(2, steps)), pipeline.head._group
        monkeypatch.setattr(group, place, failing_at(2, getattr(group, place), DeviceLostError("a device is gone")))
        pipeline.send([(its, clip(2)[0])], came.put)
        sent = 1
        with suppress(DeviceLostError):
            pipeline.send([(its, clip(2)[1])], came.put)
            sent = 2
        pictures = [came.get(timeout=30).pictures[0] for _ in range(sent)]
        assert any(isinstance(picture, DeviceLostError) for picture in pictures)
        os.kill(pids[1], signal.SIGKILL)
        pipeline.stop()
        assert came.empty()


def test_rows_whose_result_is_of_no_use_to_the_first_rank_end_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with ring(TINY, Arrangement((3, 2))) as pipeline:
        its = pipeline.open(asked(2, 2))
        finish = failing_at(1, pipeline._denoiser.finish, torch.OutOfMemoryError("no memory for this"))
        monkeypatch.setattr(pipeline._denoiser, "finish", finish)
        flowing = Flowing(pipeline)
        flowing.send(its, clip(2)[0])
        assert "no memory for this" in str(flowing.of(its)[0])
        monkeypatch.setattr(
            pipeline._denoiser, "finish", failing_at(1, pipeline._denoiser.finish, torch.OutOfMemoryError("nor this"))
        )
        other = pipeline.open(asked(2, 2))
        with pytest.raises(torch.OutOfMemoryError, match="nor this"):
            pipeline.denoise(pipeline.encode([(other, clip(2)[0])]))
        works(pipeline)


@pytest.mark.parametrize("place", ["embed", "through"])
def test_what_was_announced_is_sent_where_the_first_rank_cannot_compute_it(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ring(TINY, Arrangement((3, 2))) as pipeline:
        its, other, model = pipeline.open(asked(2, 2)), pipeline.open(asked(3, 2)), pipeline._stage.model
        monkeypatch.setattr(model, place, failing_at(1, getattr(model, place), RuntimeError("no memory for this")))
        with pytest.raises(EngineError):
            pipeline.denoise(pipeline.encode([(its, clip(2)[0])]))
        monkeypatch.setattr(model, place, failing_at(1, getattr(model, place), RuntimeError("no memory for this")))
        flowing = Flowing(pipeline)
        flowing.send(other, clip(2)[0])
        assert isinstance(flowing.of(other)[0], EngineError)
        works(pipeline)


def test_what_comes_back_while_the_ring_stops_is_done_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment between a look at what has arrived and a look at what is still to come."""
    with ring(TINY, Arrangement((3, 2))) as pipeline:
        flowing, its, head = Flowing(pipeline), pipeline.open(asked(2, 2)), pipeline.head
        look = head._next

        def slow() -> Any:
            seen = look()
            if head._stopping:
                while head._outstanding:
                    time.sleep(0.001)
            return seen

        monkeypatch.setattr(head, "_next", slow)
        flowing.send(its, clip(2)[0])
        pipeline.stop()
        assert same(flowing.of(its), alone(TINY, 2, 2)[1][:1])


def test_reasons_of_streams_that_are_gone_are_forgotten() -> None:
    with ring(TINY, Arrangement((3, 2))) as pipeline:
        for stream in range(1000):
            report = Report(1, {}, {}, {}, {stream: "no kernel"})
            pipeline.head.do(lambda report=report: pipeline.head._learn(report))  # type: ignore[misc]
        assert len(pipeline.head._failures) < 100


def test_what_cannot_be_encoded_together_changes_no_stream_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails when the first of two has taken in its frames: neither may be sent again, and both are told so."""
    with ring(TINY, Arrangement((3, 2))) as pipeline:
        states = [pipeline.open(asked(number, 2)) for number in (2, 3)]
        broken = failing_at(1, states[1].prompt.next, RuntimeError("no memory for this"))
        monkeypatch.setattr(states[1].prompt, "next", broken)
        came: queue.SimpleQueue[Arrived] = queue.SimpleQueue()
        pipeline.send([(state, clip(2)[0]) for state in states], came.put)
        assert ["no memory" in str(picture) for picture in came.get(timeout=30).pictures] == [True, True]
        works(pipeline)


def works(pipeline: RingPipeline) -> None:
    flowing, its = Flowing(pipeline), pipeline.open(asked(2, 2))
    for chunk in clip(2):
        flowing.send(its, chunk)
    assert same(flowing.of(its), alone(TINY, 2, 2)[1])
