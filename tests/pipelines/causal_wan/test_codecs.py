"""What holds for every codec of Wan's latents, whatever it computes."""

from collections.abc import Callable

import pytest
import torch

from pipelines.causal_wan.paired_codec import MeasuredCodec, PairedCodec
from tests.support.codecs import chunks, clip, decoded, encoded, held_bytes, taehv_codec, wan_codec

Build = Callable[[torch.dtype], MeasuredCodec]

CODECS: dict[str, Build] = {
    "wan": wan_codec,
    "taehv": taehv_codec,
    "paired": lambda dtype: PairedCodec(wan_codec(dtype), taehv_codec(dtype)),
}


@pytest.fixture(params=CODECS)
def build(request: pytest.FixtureRequest) -> Build:
    return CODECS[request.param]


@pytest.fixture
def codec(build: Build) -> MeasuredCodec:
    return build(torch.float32)


def test_one_latent_for_the_first_frame_then_one_for_four(codec: MeasuredCodec) -> None:
    state = codec.open()
    shapes = []
    for chunk in chunks(clip(9)):
        latent = codec.encode([state], chunk)
        shapes.append((tuple(latent.shape), tuple(codec.decode([state], latent).shape)))
    later = ((1, codec.latent_channels, 1, 4, 6), (1, 4, 3, 32, 48))
    assert shapes == [(later[0], (1, 1, 3, 32, 48)), later, later]


def test_streams_that_take_turns_are_each_as_alone(codec: MeasuredCodec) -> None:
    clips = [clip(13, seed) for seed in (1, 2)]
    alone = [encoded(codec, frames) for frames in clips]
    pictures = [decoded(codec, latents) for latents in alone]
    states = [codec.open(), codec.open()]
    for i, turn in enumerate(zip(*map(chunks, clips), strict=True)):
        for state, chunk, latents, shown in zip(states, turn, alone, pictures, strict=True):
            latent = codec.encode([state], chunk)
            assert torch.equal(latent, latents[:, :, i : i + 1])
            assert torch.equal(codec.decode([state], latent), shown[:, max(0, 4 * i - 3) : 4 * i + 1])


def test_a_stream_is_the_same_in_a_batch_of_streams_of_any_age(codec: MeasuredCodec) -> None:
    young, old = clip(9, 1), clip(17, 2)
    alone = encoded(codec, young)
    states = [codec.open() for _ in range(3)]
    encoded(codec, old[:, :9], states[1:2])
    encoded(codec, old[:, :13], states[2:])
    first = codec.encode(states[:1], young[:, :1])
    batch = torch.cat([young[:, 1:5], old[:, 9:13], old[:, 13:17]])
    second = codec.encode(states, batch)[:1]
    third = codec.encode(states[:1], young[:, 5:9])
    torch.testing.assert_close(torch.cat([first, second, third], dim=2), alone, atol=1e-4, rtol=1e-4)

    shown = decoded(codec, alone)
    latents = torch.cat([alone, encoded(codec, old[:, :9])])
    torch.testing.assert_close(decoded(codec, latents)[:1], shown, atol=1e-4, rtol=1e-4)


def test_the_second_stream_of_a_codec_is_as_that_of_a_new_one(build: Build) -> None:
    used = build(torch.float32)
    decoded(used, encoded(used, clip(9, 5)))
    new = build(torch.float32)
    assert torch.equal(encoded(used, clip(9)), encoded(new, clip(9)))
    latents = encoded(new, clip(9))
    assert torch.equal(decoded(used, latents), decoded(new, latents))


def test_what_came_before_is_seen(codec: MeasuredCodec) -> None:
    frames, other = clip(9, 1), clip(9, 2)
    other[:, 5:] = frames[:, 5:]
    ours, theirs = encoded(codec, frames), encoded(codec, other)
    assert (ours[:, :, 2] - theirs[:, :, 2]).abs().max() > 1e-3
    theirs[:, :, 2] = ours[:, :, 2]
    assert (decoded(codec, ours)[:, 5:] - decoded(codec, theirs)[:, 5:]).abs().max() > 1e-3


@pytest.mark.parametrize(("dtype", "count"), [(torch.float32, 50), (torch.bfloat16, 4)])
def test_a_stream_keeps_what_is_said_and_no_more_after_fifty_chunks(
    build: Build, dtype: torch.dtype, count: int
) -> None:
    codec = build(dtype)
    states = [codec.open(), codec.open()]
    expected = codec.bytes_per_state(16, 24, dtype)
    held = []
    for i in range(count):
        chunk = clip(1 if i == 0 else 4, i, streams=2, height=16, width=24)
        together = states if i % 3 else states[:1]  # now beside the other stream, now alone
        if i == 0 or len(together) == 2:
            codec.decode(states, codec.encode(states, chunk))
        else:
            codec.decode(together, codec.encode(together, chunk[:1]))
        held.append([held_bytes(state) for state in states])
    assert held[0] == pytest.approx([expected, expected], rel=0.1)
    assert all(bytes_held == held[0] for bytes_held in held)


def test_bfloat16_is_close_to_float32(build: Build) -> None:
    exact, rough = build(torch.float32), build(torch.bfloat16)
    latents = encoded(exact, clip(13))
    coarse = encoded(rough, clip(13))
    assert coarse.dtype == torch.bfloat16
    assert (latents - coarse).pow(2).mean().sqrt() < 0.03 * latents.std()
    pictures = decoded(exact, latents)
    assert (pictures - decoded(rough, latents)).pow(2).mean().sqrt() < 0.03 * pictures.std()


@pytest.mark.parametrize(
    ("before", "frames", "said"),
    [
        (0, clip(4), "1 frame where it begins, then 4 at a time; got 4"),
        (1, clip(1), "then 4 at a time; got 1"),
        (1, clip(5), "then 4 at a time; got 5"),
        (1, clip(4, height=16), "a stream of 48x32 pixels got a chunk of 48x16"),
        (0, clip(1, height=20), "multiples of 8, not 20x48"),
        (0, clip(1)[0], r"\(B, T, 3, H, W\), not \(1, 3, 32, 48\)"),
        (0, clip(1, streams=2), "2 rows for 1 streams"),
    ],
)
def test_frames_that_do_not_fit_are_refused(codec: MeasuredCodec, before: int, frames: torch.Tensor, said: str) -> None:
    state = codec.open()
    if before:
        codec.encode([state], clip(1))
    with pytest.raises(ValueError, match=said):
        codec.encode([state], frames)
    codec.encode([state], clip(4 if before else 1))  # a refused chunk changes nothing


def test_latents_that_do_not_fit_are_refused(codec: MeasuredCodec) -> None:
    state, other = codec.open(), codec.open()
    latents = torch.zeros(2, 4, 1, 4, 6)
    with pytest.raises(ValueError, match=r"latents are \(B, 4, 1, H/8, W/8\), not \(2, 4, 2, 4, 6\)"):
        codec.decode([state, other], latents.expand(-1, -1, 2, -1, -1))
    codec.decode([state], latents[:1])
    with pytest.raises(ValueError, match="streams that begin and streams that go on do not share a batch"):
        codec.decode([state, other], latents)
    with pytest.raises(ValueError, match="a stream of 48x32 pixels got a chunk of 32x32"):
        codec.decode([state], latents[:1, ..., :4])


def test_only_codecs_of_the_same_latents_are_paired() -> None:
    narrow = taehv_codec()
    narrow.geometry = type(narrow.geometry)(latent_channels=16)
    with pytest.raises(ValueError, match="4 and 16 channels"):
        PairedCodec(wan_codec(), narrow)


def test_a_pair_encodes_as_the_first_and_decodes_as_the_second() -> None:
    pair = PairedCodec(wan_codec(), taehv_codec())
    latents = encoded(pair, clip(9))
    assert torch.equal(latents, encoded(wan_codec(), clip(9)))
    assert torch.equal(decoded(pair, latents), decoded(taehv_codec(), latents))
