from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.causal_wan.autoencoder import AutoencoderGeometry, StreamingAutoencoder, TinyCodec
from pipelines.causal_wan.intake import StreamState
from pipelines.causal_wan.pipeline import CausalWanPipeline
from pipelines.streaming import StreamBatch, sequential
from streamgen.core import Params, Pixels
from streamgen.errors import ParamsError
from tests.support.models import DEFAULTS, random_pipeline


def frames(seed: int, count: int = 4, height: int = 64, width: int = 64) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def stream(pipeline: CausalWanPipeline, state: StreamState, chunks: list[Pixels]) -> list[Pixels]:
    return [sequential(pipeline, [(state, chunk)])[0] for chunk in chunks]


def clip(seed: int, chunks: int = 7) -> list[Pixels]:
    return [frames(seed * 100 + i, 1 if i == 0 else 4) for i in range(chunks)]


def test_every_frame_in_is_a_frame_out() -> None:
    pipeline = random_pipeline()
    state = pipeline.open(DEFAULTS)
    for chunk in (frames(0, 1), frames(1), frames(2), frames(3, 3)):
        (out,) = stream(pipeline, state, [chunk])
        assert out.shape == chunk.shape
        assert out.dtype == np.uint8


def test_same_seed_and_input_same_output_and_another_seed_another() -> None:
    pipeline = random_pipeline()
    outputs = [
        np.concatenate(stream(pipeline, pipeline.open(replace(DEFAULTS, seed=seed)), clip(1))) for seed in (3, 3, 4)
    ]
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_sessions_in_one_batch_get_what_they_get_alone(steps: int) -> None:
    """Different prompts, seeds and ages; a session's result never depends on who shares its batch."""
    pipeline = random_pipeline()
    asked = [replace(DEFAULTS, prompt=f"style {i}", seed=i, steps=steps) for i in range(3)]
    alone = [stream(pipeline, pipeline.open(params), clip(i)) for i, params in enumerate(asked)]
    states = [pipeline.open(params) for params in asked]
    got: list[list[Pixels]] = [[], [], []]
    for tick in range(9):
        ready = [(i, tick - i) for i in range(3) if 0 <= tick - i < 7]
        outputs = sequential(pipeline, [(states[i], clip(i)[n]) for i, n in ready])
        for (i, _), out in zip(ready, outputs, strict=True):
            got[i].append(out)
    for i in range(3):
        for a, b in zip(alone[i], got[i], strict=True):
            assert np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_a_closed_sessions_slots_serve_the_next_without_a_trace() -> None:
    pipeline = random_pipeline()
    want = np.concatenate(stream(pipeline, pipeline.open(DEFAULTS), clip(2)))
    other = pipeline.open(replace(DEFAULTS, prompt="something else", seed=9))
    stream(pipeline, other, clip(5))
    pipeline.close(other)
    pipeline.close(other)
    assert np.array_equal(np.concatenate(stream(pipeline, pipeline.open(DEFAULTS), clip(2))), want)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_stream_batch_gives_what_sequential_steps_give(steps: int) -> None:
    pipeline = random_pipeline()
    params = replace(DEFAULTS, steps=steps)
    want = stream(pipeline, pipeline.open(params), clip(4))
    state, batch, got = pipeline.open(params), StreamBatch(pipeline), []
    for chunk in clip(4):
        got += pipeline.decode(batch.advance(pipeline.encode([(state, chunk)])))
    for row in batch.drain([state]):
        got += pipeline.decode([row])
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_a_new_prompt_changes_the_stream_without_restarting_it() -> None:
    pipeline = random_pipeline()
    state = pipeline.open(DEFAULTS)
    first = stream(pipeline, state, clip(3)[:4])
    pipeline.update(state, replace(DEFAULTS, prompt="neon"))
    after = stream(pipeline, state, clip(3)[4:])
    unchanged = stream(pipeline, pipeline.open(DEFAULTS), clip(3))
    assert all(np.array_equal(a, b) for a, b in zip(first, unchanged, strict=False))
    assert not np.array_equal(after[0], unchanged[4])
    assert all(state.latents.cache.seen(slot) == 7 for slot in state.latents.slots)


def test_a_new_prompt_crosses_over_in_the_chunks_that_the_rules_say() -> None:
    """After two chunks the stream attends to the very context of the new prompt; in the first of them to a mixture."""
    pipeline = random_pipeline()
    state, other = pipeline.open(DEFAULTS), pipeline.open(replace(DEFAULTS, prompt="neon"))
    stream(pipeline, state, clip(3)[:1])
    old, new = state.latents.context[0][0], other.latents.context[0][0]
    pipeline.update(state, replace(DEFAULTS, prompt="neon"))
    contexts = []
    for chunk in clip(3)[1:4]:
        stream(pipeline, state, [chunk])
        contexts.append(state.latents.context[0][0])
    assert not torch.equal(contexts[0], old)
    assert not torch.equal(contexts[0], new)
    assert torch.equal(contexts[1], new)
    assert contexts[2] is contexts[1]


def test_a_negative_prompt_without_guidance_is_refused_with_the_reason() -> None:
    with pytest.raises(ParamsError, match="negative_prompt: has no effect"):
        random_pipeline().open(replace(DEFAULTS, negative_prompt="blurry"))


def test_less_noise_is_nearer_to_the_source_and_none_is_the_source_itself() -> None:
    pipeline = random_pipeline()
    autoencoded = None
    distances = []
    for noise in (0.0, 0.2, 0.6):
        out = np.concatenate(stream(pipeline, pipeline.open(replace(DEFAULTS, noise=noise)), clip(6))).astype(int)
        autoencoded = out if autoencoded is None else autoencoded
        distances.append(np.abs(out - autoencoded).mean())
    assert 0 == distances[0] < distances[1] < distances[2]


def test_two_sizes_at_once() -> None:
    pipeline = random_pipeline()
    small, wide = pipeline.open(DEFAULTS), pipeline.open(replace(DEFAULTS, width=96))
    outputs = sequential(pipeline, [(small, frames(0, 1)), (wide, frames(1, 1, width=96))])
    assert [out.shape for out in outputs] == [(1, 64, 64, 3), (1, 64, 96, 3)]


def test_the_light_codec_is_for_those_who_ask_for_it() -> None:
    pipeline, plain = random_pipeline(light=True), random_pipeline()
    full, light = (stream(pipeline, pipeline.open(replace(DEFAULTS, vae=vae)), clip(6)) for vae in ("full", "light"))
    assert all(map(np.array_equal, full, stream(plain, plain.open(DEFAULTS), clip(6))))
    assert not any(map(np.array_equal, full, light))
    with pytest.raises(ParamsError, match="vae: this preset has one VAE only"):
        plain.open(replace(DEFAULTS, vae="light"))


def test_streams_of_each_codec_are_one_batch_and_all_are_denoised_together(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int, int]] = []

    def watch(name: str) -> None:
        method = getattr(TinyCodec, name)

        def watched(codec: TinyCodec, states: Sequence[Any], batch: torch.Tensor) -> torch.Tensor:
            calls.append((name, id(codec), len(states)))
            return method(codec, states, batch)

        monkeypatch.setattr(TinyCodec, name, watched)

    pipeline = random_pipeline(light=True)
    vaes = ("light", "full", "light", "full", "full")
    alone = [stream(pipeline, pipeline.open(replace(DEFAULTS, vae=vae)), clip(i)) for i, vae in enumerate(vaes)]
    states = [pipeline.open(replace(DEFAULTS, vae=vae)) for vae in vaes]
    watch("encode")
    watch("decode")
    for n in range(7):
        calls.clear()
        pictures = sequential(pipeline, [(state, clip(i)[n]) for i, state in enumerate(states)])
        assert Counter((name, count) for name, _, count in calls) == Counter(
            {(name, count): 1 for name in ("encode", "decode") for count in (2, 3)}
        )
        assert len({codec for _, codec, _ in calls}) == 2
        for picture, expected in zip(pictures, alone, strict=True):
            assert np.abs(picture.astype(int) - expected[n]).max() <= 1


def test_a_streams_codec_stays() -> None:
    pipeline = random_pipeline(light=True)
    for vae, other in (("full", "light"), ("light", "full")):
        params = replace(DEFAULTS, vae=vae)
        state, untouched = pipeline.open(params), pipeline.open(params)
        stream(pipeline, state, clip(7)[:2])
        with pytest.raises(ParamsError, match="vae: cannot change within a stream; open a new state"):
            pipeline.update(state, replace(params, vae=other, prompt="neon"))
        after = stream(pipeline, state, clip(7)[2:])  # as if nothing had been asked
        assert all(map(np.array_equal, after, stream(pipeline, untouched, clip(7))[2:]))


def test_codecs_and_spec_agree() -> None:
    pipeline, plain = random_pipeline(light=True), random_pipeline()

    def made(like: CausalWanPipeline, **light: Any) -> CausalWanPipeline:
        models = replace(like._models, **light)
        return CausalWanPipeline(like.spec, models, like._intake._rules, torch.device("cpu"), torch.float32)

    with pytest.raises(ValueError, match="light_vae=True, and there is no light codec"):
        made(pipeline, light_codec=None)
    with pytest.raises(ValueError, match="light_vae=False, and there is a light codec"):
        made(plain, light_codec=plain._models.codec)
    other = TinyCodec(StreamingAutoencoder(AutoencoderGeometry(latent_channels=4, width=8, frame_width=4)))
    with pytest.raises(ValueError, match="other latents cannot serve one DiT: 8 and 4 channels"):
        made(pipeline, light_codec=other)


def test_memory_does_not_grow_with_sessions_that_come_and_go() -> None:
    pipeline = random_pipeline()
    keeper = pipeline.open(DEFAULTS)
    stream(pipeline, keeper, clip(0, 2))
    for i in range(20):
        state = pipeline.open(replace(DEFAULTS, prompt=str(i)))
        stream(pipeline, state, clip(i, 2))
        pipeline.close(state)
    assert keeper.latents.cache.slots == 4
    assert keeper.latents.cache.taken == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"width": 72}, "width"), ({"height": 100}, "height"), ({"width": 512, "height": 512}, "width")],
)
def test_sizes_that_cannot_run_are_refused(changes: dict[str, int], field: str) -> None:
    with pytest.raises(ParamsError, match=field):
        random_pipeline().open(replace(DEFAULTS, **changes))


def test_frames_that_do_not_fit_are_refused() -> None:
    pipeline = random_pipeline()
    state = pipeline.open(DEFAULTS)
    with pytest.raises(ParamsError, match="frames"):
        pipeline.encode([(state, frames(0, 5))])
    with pytest.raises(ParamsError, match="frames"):
        pipeline.encode([(state, frames(0, 4, height=80))])
    with pytest.raises(ParamsError, match="width: cannot change within a stream; open a new state"):
        pipeline.update(state, Params(width=128, height=64))
