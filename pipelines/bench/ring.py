"""A ring of processes on this machine whose blocks take a programmed time: how fast, and how late, chunks come out.

The real ring (pipelines.ring) with a small random DiT; what is programmed is how long its blocks, encoder and decoder
take. So a few cores stand for many devices, as they sleep most of the time.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import torch

from pipelines.bench.paced import Pace, PacedCodec, PacedModel
from pipelines.bench.ring_order import StreamBatchEntrance
from pipelines.causal_wan.autoencoder import AutoencoderGeometry, StreamingAutoencoder, TinyCodec
from pipelines.causal_wan.geometry import CacheGeometry, DiTGeometry, SamplerGeometry
from pipelines.causal_wan.intake import Rules
from pipelines.causal_wan.noise import NoiseGeometry
from pipelines.causal_wan.pipeline import CausalWanPipeline, Models
from pipelines.causal_wan.tiny_text import TextGeometry, TinyText, TinyTextEncoder
from pipelines.ring import parts
from pipelines.ring.arrangement import SPARE_CHUNKS, Arrangement
from pipelines.ring.balance import Balancer
from pipelines.ring.balance import Rules as BalanceRules
from pipelines.ring.group import Group
from pipelines.ring.head import Journey
from pipelines.ring.parts import RankModels, Words
from pipelines.ring.pipeline import RingPipeline
from pipelines.ring.split import even
from pipelines.streaming import sequential
from streamgen.core import Arrived, Params, PipelineSpec, Pixels

SIZE = 64
DEFAULTS = Params(prompt="oil", width=SIZE, height=SIZE)
CPU = torch.device("cpu")

SOON = BalanceRules(window=3, every_s=0.05)
"""So that a benchmark need not wait long until blocks are where they belong."""


@dataclass(frozen=True)
class RingCase:
    """A ring to be measured."""

    paces: tuple[Pace, ...]
    """Of each rank; a single one is one device, without a ring."""
    layers: int
    steps: int = 1
    balanced: bool = True
    """Whether blocks move; else they stay evenly spread."""
    stream_batch: bool = False
    """Whether rows go in the order of StreamDiffusionV2's ring."""

    @property
    def ranks(self) -> int:
        """How many."""
        return len(self.paces)

    @property
    def round_s(self) -> float:
        """What a row takes once round, evenly spread (s)."""
        split = even(self.layers, self.ranks)
        return sum(pace.block_s * blocks for pace, blocks in zip(self.paces, split, strict=True))


@dataclass(frozen=True)
class RingOutcome:
    """What came of it."""

    chunks_per_s: float
    latency_s: float
    """Median, from when a chunk was sent, or in the stream batch could enter, until its pictures were there (s)."""
    split: tuple[int, ...]
    """Blocks of each rank at the end."""
    costs: tuple[tuple[float, float], ...] = ()
    """Measured of each rank: a block and what comes beside them, for a row (s)."""


def measure(case: RingCase, chunks: int, settle: int) -> RingOutcome:
    """Keeps as many chunks of one stream under way as keep all ranks at work; the first `settle` do not count.

    Chunks come out in waves, one for each rank: so many more are measured that the waves are whole.
    """
    chunks = -(-chunks // case.ranks) * case.ranks
    if case.ranks == 1:
        return _one_device(case, chunks, settle)
    with ring(case) as pipeline:
        return flow(pipeline, case, chunks, settle)


def flow(pipeline: RingPipeline, case: RingCase, chunks: int, settle: int) -> RingOutcome:
    """Sends chunks through a ring that runs; it is full all the while that is measured."""
    window = case.ranks * case.steps + 2 if case.stream_batch else case.ranks
    state = pipeline.open(replace(DEFAULTS, steps=case.steps))
    room = threading.Semaphore(window)
    came: list[tuple[float, float]] = []

    def send(number: int) -> None:
        room.acquire()
        sent = time.perf_counter()

        def arrived(result: Arrived) -> None:
            now = time.perf_counter()
            came.append((now, now - sent) if not isinstance(result.pictures[0], Exception) else (now, float("nan")))
            room.release()

        pipeline.send([(state, _chunk(first=number == 0))], arrived)

    for number in range(settle + chunks + window):  # the last ones only keep the ring full
        send(number)
    for _ in range(window):
        room.acquire()
    pipeline.close(state)
    times = [now for now, _ in came[settle - 1 : settle + chunks]]
    late = [after for _, after in came]
    if isinstance(entrance := pipeline.head.entrance, StreamBatchEntrance):
        late = [now - entered for (now, _), entered in zip(came, entrance.entered, strict=True)]
    latency = statistics.median(late[settle : settle + chunks])
    balancer = pipeline.head.balancer
    costs = balancer.costs(time.monotonic()) or []
    split = tuple(balancer.split)
    return RingOutcome(chunks / (times[-1] - times[0]), latency, split, tuple((c.block_s, c.extra_s) for c in costs))


@contextmanager
def ring(case: RingCase) -> Iterator[RingPipeline]:
    """The ring's pipeline; this process is the first rank."""
    arrangement = Arrangement(even(case.layers, case.ranks))
    torch.set_num_threads(1)
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = str(Path(folder) / "rendezvous")
        for rank in range(1, case.ranks):
            process = _context().Process(target=_follow, args=(case, rendezvous, rank), daemon=True)
            process.start()
            processes.append(process)
        group = Group(rendezvous, 0, case.ranks, CPU)
        models, words = _models(case, 0)
        balancer = Balancer(arrangement.split, rules=SOON)
        if not case.balanced:
            balancer.freeze()
        entrance = StreamBatchEntrance[Journey](case.ranks) if case.stream_batch else None
        spec = replace(_spec(), stages=case.ranks, flight=case.ranks * case.steps + SPARE_CHUNKS)
        pipeline = parts.lead(models, arrangement, group, spec, words, balancer, entrance)
        try:
            yield pipeline
        finally:
            pipeline.stop()
            group.leave()
            for process in processes:
                process.join()


def _follow(case: RingCase, rendezvous: str, rank: int) -> None:
    torch.set_num_threads(1)
    group = Group(rendezvous, rank, case.ranks, CPU)
    models, _ = _models(case, rank)
    parts.follow(models, Arrangement(even(case.layers, case.ranks)), group)
    group.leave()


def _context() -> ForkServerContext:
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["torch", "torch.distributed", "pipelines.ring.parts", "pipelines.bench.ring"])
    return made


def _one_device(case: RingCase, chunks: int, settle: int) -> RingOutcome:
    """The same models without a ring, one chunk after the other."""
    torch.set_num_threads(1)
    models, words = _models(case, 0)
    whole = Models(models.codecs["full"], models.dit, words.text)
    pipeline = CausalWanPipeline(_spec(), whole, models.rules, CPU, torch.float32)
    state = pipeline.open(replace(DEFAULTS, steps=case.steps))
    took = []
    for number in range(settle + chunks):
        began = time.perf_counter()
        sequential(pipeline, [(state, _chunk(first=number == 0))])
        took.append(time.perf_counter() - began)
    latencies = took[settle:]
    return RingOutcome(chunks / sum(latencies), statistics.median(latencies), (case.layers,))


def _models(case: RingCase, rank: int) -> tuple[RankModels, Words]:
    """All ranks make the same weights, each of them all: they are small."""
    geometry = DiTGeometry(
        latent_channels=8, cond_channels=8, patch=(1, 2, 2), dim=48, ffn_dim=96, heads=2, layers=case.layers,
        freq_dim=32, text_dim=16, text_len=6, prediction="x0",
    )  # fmt: skip
    torch.manual_seed(0)
    dit = PacedModel(geometry, case.paces[rank])
    autoencoder = StreamingAutoencoder(AutoencoderGeometry(latent_channels=8, width=16, frame_width=8))
    text = TinyTextEncoder(TextGeometry(buckets=64, dim=16, layers=1, heads=2, length=6), 3)
    for model in (dit, autoencoder, text):
        model.eval().requires_grad_(False)
    arrangement = Arrangement(even(case.layers, case.ranks))
    for layer in set(range(case.layers)) - set(arrangement.layers(rank)):
        dit.blocks[layer].to("meta")
    rules = Rules(CacheGeometry(window=4, sinks=1, sink_threshold=0.2), SamplerGeometry(), NoiseGeometry())
    codecs = {"full": PacedCodec(TinyCodec(autoencoder), case.paces[rank])}
    return RankModels(dit, rules, CPU, torch.float32, codecs), Words(TinyText(text), rules.blend_chunks)


def _spec() -> PipelineSpec:
    return PipelineSpec("paced", 4, 1, 16, SIZE * SIZE, 16.0, 0, DEFAULTS)


def _chunk(*, first: bool) -> Pixels:
    return np.full((1 if first else 4, SIZE, SIZE, 3), 127, np.uint8)
