"""Ours against the published StreamDiffusionV2, live, at random small weights in float32.

What is ours is configured to do what the package does (`like_published`); where the two are meant to differ, a test
mends the package's fault, and nothing else, and finds them equal.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.causal_wan.denoiser import Denoiser, LatentRow, LatentStream
from pipelines.causal_wan.geometry import CacheGeometry, SamplerGeometry
from pipelines.causal_wan.noise import NoiseController, NoiseGeometry
from pipelines.causal_wan.sampler import Sampler
from tests.support import published
from tests.support.published import Clip, Published, theirs

pytestmark = [
    pytest.mark.skipif(not published.installed(), reason=published.MISSING),
    pytest.mark.filterwarnings("ignore"),
]

CPU = torch.device("cpu")
STEPS = (700, 500, 400, 200)
SAMPLER = SamplerGeometry(schedule="list", steps=STEPS, noise="fresh")
NEVER = -1.0
CLOSE = 1e-4


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.inference_mode():
        yield


class Pair:
    """The package and ours, with the same weights."""

    def __init__(
        self,
        window: int = 6,
        sinks: int = 3,
        threshold: float = NEVER,
        *,
        steps: int = 2,
        batched: bool = True,
        grid: tuple[int, int] = (2, 3),
        layers: int = 2,
        heads: int = 1,
    ) -> None:
        geometry = published.geometry(layers, heads)
        model = published.wan_model(geometry)
        self.grid, self.steps, self.batched = grid, steps, batched
        self.dit = published.our_model(model, geometry)
        self._text = torch.randn(1, geometry.text_len, geometry.text_dim, generator=torch.Generator().manual_seed(5))
        self.package = Published(
            model, grid, self._text, window=window, sinks=sinks, threshold=threshold, steps=STEPS[:steps]
        )
        self.package.after_pass = self.package.forget_pending
        self.like_published = CacheGeometry(
            window, sinks, threshold, sink_rule="move", sink_positions="absolute",
            memory="own" if batched else "first", start="last",
        )  # fmt: skip

    def theirs(self, clip: Clip, chunks: int, frame: Callable[[int], int] | None = None) -> list[Tensor]:
        return theirs(self.package, clip, chunks, batched=self.batched, frame=frame)

    def denoiser(self, clip: Clip, cache: CacheGeometry | None = None) -> Denoiser:
        """Ours, which draws the clip's noise."""

        def draw(_shape: object, _seed: int, step: int, _device: object, _dtype: object, chunk: int) -> Tensor:
            return clip.noise(chunk, step)

        return Denoiser(self.dit, cache or self.like_published, SAMPLER, CPU, torch.float32, draw)

    def ours(self, clip: Clip, chunks: int, cache: CacheGeometry | None = None) -> list[Tensor]:
        denoiser = self.denoiser(clip, cache)
        return self.stream(denoiser, denoiser.open(self.grid, self.dit.context(self._text), 0), clip, chunks)

    def stream(self, denoiser: Denoiser, stream: LatentStream, clip: Clip, chunks: int) -> list[Tensor]:
        outputs: list[Tensor] = []
        flying: list[LatentRow] = []
        for chunk in range(chunks):
            flying.append(denoiser.start(stream, clip.clean(chunk), self.steps, clip.level(chunk)))
            flying = denoiser.step(flying)
            while not self.batched and not flying[0].done:
                flying = denoiser.step(flying)
            outputs += [row.latent for row in flying if row.done]
            flying = [row for row in flying if not row.done]
        return outputs


def error(a: list[Tensor], b: list[Tensor]) -> float:
    """The largest relative error of a chunk."""
    assert len(a) == len(b)
    return max(float((x - y).norm() / y.norm()) for x, y in zip(a, b, strict=True))


STREAM_BATCH = [
    {"window": 6, "sinks": 3, "threshold": 0.2, "steps": 1},
    {"window": 6, "sinks": 3, "threshold": 0.2, "steps": 2},
    {"window": 6, "sinks": 3, "threshold": 0.8, "steps": 2, "layers": 3},
    {"window": 6, "sinks": 3, "threshold": 0.5, "steps": 4},
    {"window": 5, "sinks": 2, "threshold": NEVER, "steps": 2, "grid": (3, 2)},
    {"window": 4, "sinks": 1, "threshold": 0.9, "steps": 3, "grid": (1, 4), "heads": 2},
    {"window": 8, "sinks": 5, "threshold": 0.6, "steps": 2},
    {"window": 3, "sinks": 2, "threshold": 0.7, "steps": 3},
    {"window": 2, "sinks": 1, "threshold": NEVER, "steps": 2},  # theirs warms up on zeros, which fill it
]


@pytest.mark.parametrize("settings", STREAM_BATCH, ids=str)
def test_stream_batch_agrees(settings: dict[str, Any]) -> None:
    pair, clip = Pair(**settings), Clip(settings.get("grid", (2, 3)), cut=20)
    assert error(pair.ours(clip, 44), pair.theirs(clip, 44)) < CLOSE


SEQUENTIAL = [
    {"window": 6, "sinks": 3, "threshold": 0.2, "steps": 1},
    {"window": 6, "sinks": 3, "threshold": NEVER, "steps": 2},
    {"window": 6, "sinks": 3, "threshold": 0.8, "steps": 2},
    {"window": 5, "sinks": 2, "threshold": 0.5, "steps": 3, "grid": (3, 2)},
    {"window": 4, "sinks": 1, "threshold": 0.9, "steps": 4, "heads": 2},
]


@pytest.mark.parametrize("settings", SEQUENTIAL, ids=str)
def test_sequential_steps_agree(settings: dict[str, Any]) -> None:
    pair, clip = Pair(**settings, batched=False), Clip(settings.get("grid", (2, 3)), cut=20)
    assert error(pair.ours(clip, 42), pair.theirs(clip, 42)) < CLOSE


@pytest.mark.parametrize("batched", [True, False])
def test_a_start_with_two_latent_frames_at_once_agrees(batched: bool) -> None:
    """As the package starts from video: five frames, two latents that attend to each other."""
    pair, clip = Pair(6, 3, 0.6, batched=batched), Clip((2, 3), first=2, cut=20)
    assert error(pair.ours(clip, 42), pair.theirs(clip, 42)) < CLOSE


def test_the_comparison_sees_sinks_replaced() -> None:
    """Else the tests above would prove little: in both, some layers replace sinks and others do not."""
    pair, clip = Pair(6, 3, 0.8, layers=3), Clip((2, 3), cut=20)
    denoiser = pair.denoiser(clip)
    stream = denoiser.open(pair.grid, pair.dit.context(pair._text), 0)
    pair.stream(denoiser, stream, clip, 44)
    born = stream.cache.sinks.born[:, stream.slots, :3]
    assert (born >= 6).any()
    assert len({tuple(layer.flatten().tolist()) for layer in born}) > 1
    assert (
        error(pair.ours(clip, 44), pair.ours(clip, 44, CacheGeometry(6, 3, NEVER, "move", "absolute", start="last")))
        > 0.01
    )


# --- the faults of FACTS.md, each alone ----------------------------------------------------------------------------


def test_fault_1_only_theirs_remembers_the_last_session() -> None:
    """The order of eviction outlives a session, and so does its first step's level."""
    pair, clip = Pair(6, 3, NEVER), Clip((2, 3))
    fresh = pair.theirs(clip, 20)
    pair.package.reset()
    assert error(pair.theirs(clip, 20), fresh) > 0.01
    pair.package.reset()
    for attention in pair.package.attentions:
        attention.evict_idx = None
    assert error(pair.theirs(clip, 20), fresh) < CLOSE
    denoiser = pair.denoiser(clip)
    context = pair.dit.context(pair._text)
    for _ in range(2):
        stream = denoiser.open(pair.grid, context, 0)
        assert error(pair.stream(denoiser, stream, clip, 20), fresh) < CLOSE
        denoiser.close(stream)


@pytest.mark.parametrize("batched", [True, False])
def test_fault_2_only_theirs_replaces_sinks_that_are_not_there_yet(batched: bool) -> None:
    """In a scene that never changes no sink is unlike; theirs are replaced all the same once the ring is full."""
    pair, clip = Pair(6, 3, 0.2, batched=batched), Clip((2, 3), change=0.05, loudness=0.2)
    ours = pair.ours(clip, 42)
    assert (
        error(ours, pair.ours(clip, 42, CacheGeometry(**{**vars(pair.like_published), "sink_threshold": NEVER}))) == 0
    )
    assert error(ours, pair.theirs(clip, 42)) < CLOSE
    pair = Pair(6, 3, 0.2, batched=batched)
    pair.package.after_pass = lambda frame, step: None
    faulty = pair.theirs(clip, 42)
    assert error(ours[:5], faulty[:5]) < CLOSE
    assert error(ours, faulty) > 1e-3


def test_fault_3_only_theirs_ends_at_latent_frame_1024() -> None:
    pair, clip, jump = Pair(4, 1, NEVER, steps=1), Clip((2, 3)), 1008  # as often round the ring
    denoiser = pair.denoiser(clip)
    stream = denoiser.open(pair.grid, pair.dit.context(pair._text), 0)
    with pytest.raises(RuntimeError):
        pair.theirs(clip, 20, frame=lambda chunk: chunk if chunk < 5 else chunk + jump)
    pair = Pair(4, 1, NEVER, steps=1)
    theirs_so_far = pair.theirs(clip, 1024 - jump, frame=lambda chunk: chunk if chunk < 5 else chunk + jump)
    ours = pair.stream(denoiser, stream, clip, 5)
    stream.cache._seen[stream.slots[0]] += jump
    for chunk in range(5, 40):
        (row,) = denoiser.step([denoiser.start(stream, clip.clean(chunk), 1, clip.level(chunk))])
        ours.append(row.latent)
    assert error(ours[: 1024 - jump], theirs_so_far) < CLOSE
    assert all(latent.isfinite().all() for latent in ours)


def refresh(chunk: int) -> int:
    """The package's own restart of positions, at latent frame 20 rather than 50."""
    return chunk if chunk < 20 else chunk - 20 + 5


def turn_cached(package: Published, dit: Any, frames: int, places: slice) -> None:
    """Turns what is cached on by so many latent frames."""
    pairs = dit.geometry.rope_pairs[0]
    turn = torch.polar(torch.ones(pairs), frames * 10000.0 ** (-torch.arange(pairs) / pairs))
    for cache in package.pipe.kv_cache1:
        keys = torch.view_as_complex(cache["k"].unflatten(-1, (-1, 2)).contiguous())
        keys[:, places.start * package.tokens : places.stop * package.tokens, :, :pairs] *= turn
        cache["k"].copy_(torch.view_as_real(keys).flatten(-2))


def test_fault_4_only_theirs_forgets_to_turn_what_is_cached_when_it_restarts_its_positions() -> None:
    pair, clip = Pair(6, 3, NEVER, steps=1), Clip((2, 3))
    without = pair.theirs(clip, 40)
    assert error(pair.ours(clip, 40), without) < CLOSE
    pair = Pair(6, 3, NEVER, steps=1)
    refreshed = pair.theirs(clip, 40, frame=refresh)
    assert error(refreshed[:20], without[:20]) < CLOSE
    assert error(refreshed[20:], without[20:]) > 0.01

    pair = Pair(6, 3, NEVER, steps=1)

    def at(chunk: int) -> int:
        if chunk == 20:
            turn_cached(pair.package, pair.dit, refresh(20) - 20, slice(0, 6))
        return refresh(chunk)

    assert error(pair.theirs(clip, 40, frame=at), without) < CLOSE


@pytest.mark.parametrize("threshold", [NEVER, 0.2])
def test_held_sinks_are_theirs_turned_on_with_the_window(threshold: float) -> None:
    """What ours does instead of restarting positions: once the window is full, sinks move with it, and nothing else."""
    pair, clip = Pair(6, 3, threshold, steps=1), Clip((2, 3), change=0.05, loudness=0.2)

    def at(chunk: int) -> int:
        if chunk >= 6:
            turn_cached(pair.package, pair.dit, 1, slice(0, 3))
        return chunk

    held = CacheGeometry(6, 3, threshold, sink_rule="move", start="last")
    want = pair.theirs(clip, 60, frame=at)
    assert error(pair.ours(clip, 60, held), want) < CLOSE
    assert error(pair.ours(clip, 60), want) > 1e-3


# --- faults that FACTS.md does not list ---------------------------------------------------------------------------


def test_in_sequence_theirs_remembers_the_first_steps_keys_as_its_ring_turns_a_step_early() -> None:
    """The step that follows the one that fills the window already evicts; from there on a frame's last keys are
    overwritten by the next frame's first. With that one step put right it is our memory of the last step."""
    pair, clip = Pair(6, 3, NEVER, steps=2, batched=False), Clip((2, 3))
    last = CacheGeometry(**{**vars(pair.like_published), "memory": "last"})
    assert error(pair.ours(clip, 20, last), pair.theirs(clip, 20)) > 0.01

    pair = Pair(6, 3, NEVER, steps=2, batched=False)

    def put_right(frame: int, step: int) -> None:
        if frame == 5 and step == 0:
            for cache in pair.package.pipe.kv_cache1:
                cache["local_end_index"] -= pair.package.tokens
                cache["global_end_index"] -= pair.package.tokens

    pair.package.after_pass = put_right
    assert error(pair.ours(clip, 20, last), pair.theirs(clip, 20)) < CLOSE


def test_in_sequence_theirs_replaces_sinks_long_after_they_were_unlike() -> None:
    """Where the steps of a frame find several sinks unlike, all but one wait for frames that may be like them."""
    pair, clip = Pair(5, 2, 0.5, steps=3, batched=False), Clip((2, 3))
    mended = pair.theirs(clip, 30)
    pair = Pair(5, 2, 0.5, steps=3, batched=False)

    def only_while_filling(frame: int, step: int) -> None:
        if frame < 5:
            pair.package.forget_pending(frame, step)

    pair.package.after_pass = only_while_filling
    assert error(pair.theirs(clip, 30), mended) > 1e-3


def test_theirs_never_evicts_what_the_first_chunk_put_into_the_ring() -> None:
    """With fewer sinks than latent frames at the start, what is too many stays for ever: it is one sink more."""
    pair, clip = Pair(5, 2, NEVER), Clip((2, 3), first=2)
    got = pair.theirs(clip, 30)
    assert error(pair.ours(clip, 30), got) > 0.01
    assert error(pair.ours(clip, 30, CacheGeometry(5, 3, NEVER, "move", "absolute", start="last")), got) < CLOSE


# --- noise --------------------------------------------------------------------------------------------------------


def test_the_levels_of_the_steps_are_theirs() -> None:
    scheduler = published.module("models.wan.flow_match").FlowMatchScheduler(
        shift=8.0, sigma_min=0.0, extra_one_step=True
    )
    scheduler.set_timesteps(1000, training=True)
    sampler = Sampler(SAMPLER)
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    for timestep in range(1001):
        want = scheduler.add_noise(zero, one, torch.tensor([timestep])).item()
        assert sampler.sigma(timestep) == pytest.approx(want, abs=2e-7)
    assert [sampler.level(step, 4, 0.8).time for step in range(4)] == [0.7, 0.5, 0.4, 0.2]


def their_noise_scale() -> Callable[..., tuple[float, int]]:
    """Their controller out of its file, whose module needs more packages than it."""
    spec = importlib.util.find_spec("streamv2v")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "inference.py").read_text())
    (function,) = [node for node in tree.body if getattr(node, "name", "") == "compute_noise_scale_and_step"]
    names: dict[str, Any] = {"torch": torch}
    exec(compile(ast.Module([function], []), "inference.py", "exec"), names)
    return names["compute_noise_scale_and_step"]


def test_the_noise_controller_is_theirs() -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (1, 24, 32, 3), dtype=np.uint8)]
    for chunk in range(40):
        speed = [0, 2, 40, 250][chunk // 3 % 4]
        move = rng.integers(-speed, speed + 1, (4, 24, 32, 3)).cumsum(axis=0)
        frames.append(np.clip(frames[-1][-1:].astype(int) + move, 0, 255).astype(np.uint8))
    controller = NoiseController(NoiseGeometry(window=1, stride=1))
    video = torch.from_numpy(np.concatenate(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0
    theirs_now, compute, sampler = 0.8, their_noise_scale(), Sampler(SAMPLER)
    levels = [controller.next(frames[0], 0.8)]
    for chunk in range(1, len(frames)):
        theirs_now, step = compute(video, 1 + 4 * chunk, 4, theirs_now, 0.8)
        levels.append(controller.next(frames[chunk], 0.8))
        assert levels[-1] == pytest.approx(theirs_now, abs=1e-6)
        if abs(1000 * theirs_now - round(1000 * theirs_now)) > 1e-3:  # else rounding decides
            assert sampler.level(0, 2, levels[-1]).time == step / 1000
    assert min(levels) < 0.72
    assert max(levels) == 0.8
