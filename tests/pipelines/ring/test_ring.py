"""A ring of processes gives what one device gives."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from pipelines.bench.paced import Pace
from pipelines.causal_wan.denoiser import LatentRow, Pass
from pipelines.causal_wan.geometry import CacheGeometry, SamplerGeometry
from pipelines.ring.arrangement import Arrangement
from pipelines.ring.balance import Balancer, Rules
from pipelines.ring.operations import Move
from pipelines.ring.pipeline import RingPipeline
from pipelines.streaming import StreamBatch, finish, sequential
from streamgen.core import Arrived, Params, Pixels
from streamgen.errors import DeviceLostError, EngineError, ParamsError
from tests.support.models import DEFAULTS, DIT
from tests.support.ring import Recipe, ring

CHUNKS = 9
MOVING = CacheGeometry(4, 2, 0.6, sink_rule="move", start="last")
WAN = Recipe(
    replace(DIT, layers=5, cond_channels=0, prediction="flow"),
    MOVING,
    SamplerGeometry("list", (700, 500, 400, 200), noise="fresh"),
)
TINY = Recipe()
SHARED = replace(TINY, cache=CacheGeometry(4, 1, 0.2, memory="last"))
RECIPES = [pytest.param(TINY, id="tiny"), pytest.param(WAN, id="wan"), pytest.param(SHARED, id="shared")]
SPLITS = [pytest.param((3, 2), id="2"), pytest.param((1, 3, 1), id="3"), pytest.param((0, 2, 2, 1), id="4")]


def clip(seed: int, chunks: int = CHUNKS, size: int = 64) -> list[Pixels]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (1 if i == 0 else 4, size, size, 3), dtype=np.uint8) for i in range(chunks)]


def asked(number: int, steps: int) -> Params:
    return replace(DEFAULTS, prompt=f"style {number}", seed=number, steps=steps)


@cache
def alone(recipe: Recipe, number: int, steps: int, chunks: int = CHUNKS) -> tuple[list[Tensor], list[Pixels]]:
    """Latents and pictures that one device makes of a session's clip."""
    pipeline = recipe.whole()
    state = pipeline.open(asked(number, steps))
    latents, pictures = [], []
    for chunk in clip(number, chunks):
        rows = finish(pipeline, pipeline.encode([(state, chunk)]))
        latents.append(rows[0].latent.latent)
        pictures += pipeline.decode(rows)
    return latents, pictures


def close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).norm() / b.norm()) < 1e-5


def same(a: Sequence[Pixels], b: Sequence[Pixels]) -> bool:
    return len(a) == len(b) and all(np.abs(x.astype(int) - y.astype(int)).max() <= 1 for x, y in zip(a, b, strict=True))


class Flowing:
    """Sends chunks of several streams, and waits until all have arrived."""

    def __init__(self, pipeline: RingPipeline) -> None:
        self._pipeline = pipeline
        self._sent = 0
        self._came: list[tuple[Any, Arrived]] = []
        self._news = threading.Condition()

    def send(self, state: Any, chunk: Pixels) -> None:
        self._sent += 1
        self._pipeline.send([(state, chunk)], lambda arrived: self._arrived(state, arrived))

    def results(self) -> list[tuple[Any, Arrived]]:
        with self._news:
            assert self._news.wait_for(lambda: len(self._came) == self._sent, 60)
        return self._came

    def of(self, state: Any) -> list[Any]:
        return [arrived.pictures[0] for its, arrived in self.results() if its is state]

    def _arrived(self, state: Any, arrived: Arrived) -> None:
        with self._news:
            self._came.append((state, arrived))
            self._news.notify()


@pytest.mark.parametrize("recipe", RECIPES[:2])
@pytest.mark.parametrize("split", SPLITS)
def test_a_ring_gives_what_one_device_gives(recipe: Recipe, split: tuple[int, ...]) -> None:
    """Latents to 1e-5: three sessions at once, 1 to 4 steps, step by step."""
    with ring(recipe, Arrangement(split)) as pipeline:
        for steps in (1, 2, 3, 4):
            states = [pipeline.open(asked(i, steps)) for i in range(3)]
            got: list[list[Tensor]] = [[], [], []]
            pictures: list[list[Pixels]] = [[], [], []]
            for tick in range(CHUNKS + 2):
                ready = [(i, tick - i) for i in range(3) if 0 <= tick - i < CHUNKS]
                rows = finish(pipeline, pipeline.encode([(states[i], clip(i)[n]) for i, n in ready]))
                for (i, _), row, picture in zip(ready, rows, pipeline.decode(rows), strict=True):
                    got[i].append(row.latent.latent)
                    pictures[i].append(picture)
            for i in range(3):
                want, shown = alone(recipe, i, steps)
                assert all(close(a, b) for a, b in zip(got[i], want, strict=True))
                assert same(pictures[i], shown)
                pipeline.close(states[i])


@pytest.mark.parametrize("recipe", RECIPES[:2])
@pytest.mark.parametrize("steps", [2, 4])
def test_a_stream_batch_round_the_ring_gives_what_one_device_gives(recipe: Recipe, steps: int) -> None:
    with ring(recipe, Arrangement((2, 2, 1))) as pipeline:
        state = pipeline.open(asked(1, steps))
        batch = StreamBatch(pipeline)
        rows = []
        for chunk in clip(1):
            rows += batch.advance(pipeline.encode([(state, chunk)]))
        rows += batch.drain([state])
        want, _ = alone(recipe, 1, steps)
        assert all(close(row.latent.latent, b) for row, b in zip(rows, want, strict=True))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("split", SPLITS)
def test_chunks_that_flow_give_what_one_device_gives_while_blocks_move(
    recipe: Recipe, split: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sessions with different steps, all chunks under way at once; a block moves after every third."""
    moves = to_and_fro(split)
    with ring(recipe, Arrangement(split)) as pipeline:
        latents: dict[int, list[Tensor]] = {}
        finish = pipeline._denoiser.finish

        def noted(passing: Pass, prediction: Tensor) -> list[LatentRow]:
            rows = finish(passing, prediction)
            for row in rows:
                if row.done:
                    latents.setdefault(row.stream.seed, []).append(row.latent.clone())
            return rows

        monkeypatch.setattr(pipeline._denoiser, "finish", noted)
        flowing = Flowing(pipeline)
        states = [pipeline.open(asked(i, steps=(2, 4, 1)[i])) for i in range(3)]
        for n in range(CHUNKS):
            for i in range(3):
                flowing.send(states[i], clip(i)[n])
            move = moves[n % len(moves)]
            pipeline.head.do(lambda move=move: pipeline.head.move(move))  # type: ignore[misc]
        for i, state in enumerate(states):
            pictures = flowing.of(state)
            want, shown = alone(recipe, i, (2, 4, 1)[i])
            assert same(pictures, shown)
            assert all(close(a, b) for a, b in zip(latents[i], want, strict=True))


def to_and_fro(split: tuple[int, ...]) -> list[Move]:
    """Moves over every border, there and back."""
    moves = []
    for rank in range(len(split) - 1):
        last = sum(split[: rank + 1]) - 1
        if split[rank] > (rank > 0):
            moves += [Move(last, rank, rank + 1), Move(last, rank + 1, rank)]
        else:
            moves += [Move(last + 1, rank + 1, rank), Move(last + 1, rank, rank + 1)]
    return moves


def test_a_session_whose_parameters_change_goes_on_without_a_cut() -> None:
    """Prompt, seed and steps change between chunks that are all under way: each chunk has those it was sent with."""
    changes = {3: asked(5, 2), 5: asked(5, 4), 7: asked(6, 1)}
    whole = TINY.whole()
    state = whole.open(asked(1, 2))
    want = []
    for n, chunk in enumerate(clip(1)):
        if n in changes:
            whole.update(state, changes[n])
        want.append(sequential(whole, [(state, chunk)])[0])
    with ring(TINY, Arrangement((2, 2, 1))) as pipeline:
        flowing = Flowing(pipeline)
        its = pipeline.open(asked(1, 2))
        for n, chunk in enumerate(clip(1)):
            if n in changes:
                pipeline.update(its, changes[n])
            flowing.send(its, chunk)
        assert same(flowing.of(its), want)


def test_steps_that_grow_where_the_caches_start_alike() -> None:
    whole = WAN.whole()
    state = whole.open(asked(1, 1))
    want = []
    steps = [1, 1, 3, 3, 2, 4, 4, 1, 4]
    for count, chunk in zip(steps, clip(1), strict=True):
        whole.update(state, asked(1, count))
        want.append(sequential(whole, [(state, chunk)])[0])
    with ring(WAN, Arrangement((2, 3))) as pipeline:
        flowing = Flowing(pipeline)
        its = pipeline.open(asked(1, 1))
        for count, chunk in zip(steps, clip(1), strict=True):
            pipeline.update(its, asked(1, count))
            flowing.send(its, chunk)
        assert same(flowing.of(its), want)


def test_a_closed_stream_leaves_nothing_to_the_next_and_its_chunks_arrive_with_a_reason() -> None:
    _, want = alone(TINY, 2, 2)
    with ring(TINY, Arrangement((2, 2, 1))) as pipeline:
        flowing = Flowing(pipeline)
        for life in range(3):
            other, its = pipeline.open(asked(9, 3)), pipeline.open(asked(2, 2))
            for a, b in zip(clip(9 + life), clip(2), strict=True):
                flowing.send(other, a)
                flowing.send(its, b)
            pipeline.close(other)
            pipeline.close(other)
            assert same(flowing.of(its), want)
            reasons = [picture for picture in flowing.of(other) if isinstance(picture, Exception)]
            assert all("closed" in str(reason) for reason in reasons)
            pipeline.close(its)


def test_bad_input_is_refused_and_costs_nobody_anything() -> None:
    _, want = alone(TINY, 2, 2)
    with ring(TINY, Arrangement((2, 3))) as pipeline:
        flowing = Flowing(pipeline)
        its = pipeline.open(asked(2, 2))
        with pytest.raises(ParamsError, match="width"):
            pipeline.open(replace(DEFAULTS, width=72))
        for n, chunk in enumerate(clip(2)):
            flowing.send(its, chunk)
            if n:
                with pytest.raises(ParamsError, match="frames"):
                    pipeline.send([(its, clip(0, size=32)[1])], lambda _: None)
        assert same(flowing.of(its), want)


@pytest.mark.parametrize("split", [(2, 2, 1), (3, 2)])
def test_a_stream_that_a_rank_cannot_compute_ends_alone(split: tuple[int, ...]) -> None:
    _, want = alone(TINY, 2, 2)
    with ring(replace(TINY, unfit_grid=(6, 6)), Arrangement(split)) as pipeline:
        flowing = Flowing(pipeline)
        its, unfit = pipeline.open(asked(2, 2)), pipeline.open(replace(asked(3, 2), width=96, height=96))
        for n, chunk in enumerate(clip(2)):
            flowing.send(its, chunk)
            flowing.send(unfit, clip(3, size=96)[n])
        assert same(flowing.of(its), want)
        assert all(isinstance(picture, EngineError) for picture in flowing.of(unfit))
        pipeline.close(unfit)
        assert pipeline.encode([(its, clip(2)[1])])


@pytest.mark.parametrize("victim", [1, 2])
def test_everybody_who_waits_is_told_when_a_rank_is_gone(victim: int) -> None:
    pids: dict[int, int] = {}
    with ring(replace(TINY, paces=(Pace(0.05),) * 3), Arrangement((2, 2, 1)), pids=pids) as pipeline:
        flowing = Flowing(pipeline)
        its = pipeline.open(asked(2, 4))
        for chunk in clip(2)[:5]:
            flowing.send(its, chunk)
        os.kill(pids[victim], signal.SIGKILL)
        assert any(isinstance(picture, DeviceLostError) for picture in flowing.of(its))
        with pytest.raises(DeviceLostError):
            pipeline.open(asked(1, 1))


def test_blocks_move_from_a_rank_that_is_slow() -> None:
    """One rank takes three times as long for a block: it ends with fewer of them, and the streams see nothing of it."""
    split = (3, 2)
    _, want = alone(TINY, 2, 1, chunks=60)
    balancer = Balancer(split, rules=Rules(window=2, every_s=0.1))
    with ring(replace(TINY, paces=(Pace(0.018), Pace(0.006))), Arrangement(split), balancer) as pipeline:
        flowing = Flowing(pipeline)
        its = pipeline.open(asked(2, 1))
        for chunk in clip(2, chunks=60):
            flowing.send(its, chunk)
        assert same(flowing.of(its), want)
        assert balancer.split[0] <= 2
        assert sum(balancer.split) == 5
