from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines.causal_wan.taehv import TaehvCodec
from pipelines.causal_wan.taehv_geometry import TaehvGeometry
from pipelines.causal_wan.wan_vae_geometry import WAN_DEVIATION, WAN_MEAN
from streamgen.errors import WeightsError
from tests.support.codecs import TAEHV, clip, decoded, encoded, random_taehv, taehv_codec

PUBLISHED = TaehvGeometry()


def whole_clip_latents(w: dict[str, Tensor], frames: Tensor) -> Tensor:
    """Frames (4k, 3, H, W) in 0..1 to latents (k, C, H/8, W/8): the architecture, layer by layer, on a whole clip."""
    x = F.conv2d(frames, w["encoder.0.weight"], w["encoder.0.bias"], padding=1).relu()
    for at, stride in ((2, 2), (7, 2), (12, 1)):
        x = F.conv2d(torch.cat([x[i::stride] for i in range(stride)], 1), w[f"encoder.{at}.conv.weight"])
        x = F.conv2d(x, w[f"encoder.{at + 1}.weight"], stride=2, padding=1)
        for i in (2, 3, 4):
            x = with_memory(w, f"encoder.{at + i}", x)
    return F.conv2d(x, w["encoder.17.weight"], w["encoder.17.bias"], padding=1)


def whole_clip_pictures(w: dict[str, Tensor], latents: Tensor) -> Tensor:
    """Latents (k, C, H/8, W/8) to pictures (4k, 3, H, W) in 0..1, likewise."""
    x = F.conv2d((latents / 3).tanh() * 3, w["decoder.1.weight"], w["decoder.1.bias"], padding=1).relu()
    for at, stride in ((3, 1), (9, 2), (15, 2)):
        for i in range(3):
            x = with_memory(w, f"decoder.{at + i}", x)
        x = F.conv2d(F.interpolate(x, scale_factor=2), w[f"decoder.{at + 4}.conv.weight"])
        x = torch.stack(x.chunk(stride, dim=1), dim=1).flatten(0, 1)
        x = F.conv2d(x, w[f"decoder.{at + 5}.weight"], padding=1)
    return F.conv2d(x.relu(), w["decoder.22.weight"], w["decoder.22.bias"], padding=1).clamp(0, 1)


def with_memory(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    y = torch.cat([x, before], dim=1)
    for i in (0, 2, 4):
        y = F.conv2d(y.relu() if i else y, w[f"{name}.conv.{i}.weight"], w[f"{name}.conv.{i}.bias"], padding=1)
    return (x + y).relu()


def test_chunks_are_encoded_as_the_whole_clip_whose_first_frame_comes_four_times() -> None:
    frames = clip(17, streams=2)
    codec, w = taehv_codec(), random_taehv()
    ours = encoded(codec, frames)
    assert ours.std() > 0.1
    for row, latents in zip(frames, ours, strict=True):
        whole = whole_clip_latents(w, torch.cat([row[:1].expand(3, -1, -1, -1), row]) / 2 + 0.5)
        torch.testing.assert_close(latents.transpose(0, 1), whole, atol=1e-4, rtol=1e-4)


def test_latents_are_decoded_as_the_whole_clip_without_its_first_three_pictures() -> None:
    latents = torch.randn(2, TAEHV.latent_channels, 5, 4, 6, generator=torch.Generator().manual_seed(3))
    codec, w = taehv_codec(), random_taehv()
    ours = decoded(codec, latents)
    assert ours.shape == (2, 17, 3, 32, 48)
    assert ours.abs().max() < 1, "clamping would hide differences"
    assert ours.std() > 0.05
    for row, pictures in zip(latents, ours, strict=True):
        whole = whole_clip_pictures(w, row.transpose(0, 1))[3:] * 2 - 1
        torch.testing.assert_close(pictures, whole, atol=1e-4, rtol=1e-4)


def test_the_published_package_gives_the_same(tmp_path: Path) -> None:
    published = pytest.importorskip("models.wan.taehv_wrapper", exc_type=ImportError)
    w = random_taehv(PUBLISHED)
    torch.save(w, tmp_path / "taew2_1.pth")
    reference = published.TAEHV(str(tmp_path / "taew2_1.pth")).requires_grad_(False)  # loads strictly
    codec = TaehvCodec.from_state_dict(w)
    frames = clip(9, height=24, width=32)
    padded = torch.cat([frames[:, :1].expand(-1, 3, -1, -1, -1), frames], dim=1) / 2 + 0.5
    latents = reference.encode_video(padded, parallel=True).transpose(1, 2)
    torch.testing.assert_close(encoded(codec, frames), latents, atol=1e-4, rtol=1e-4)
    shown = reference.decode_video(latents.transpose(1, 2), parallel=True)[:, reference.frames_to_trim :]
    torch.testing.assert_close(decoded(codec, latents), shown * 2 - 1, atol=1e-4, rtol=1e-4)


def test_the_published_file_has_these_weights() -> None:
    names = random_taehv(PUBLISHED)
    assert len(names) == 128
    assert 2 * sum(tensor.numel() for tensor in names.values()) == pytest.approx(22_678_901, rel=0.01)  # float16


def test_latents_are_put_on_the_scale_of_wans_vae_where_raw_ones_are_asked_for() -> None:
    geometry = TaehvGeometry(latent_channels=16, encoder_width=4, decoder_widths=(4, 4, 4, 4))
    normalised, raw = (
        TaehvCodec.from_state_dict(random_taehv(geometry), geometry, raw_latents=raw) for raw in (False, True)
    )
    latents = encoded(normalised, clip(5))
    for channel, (mean, deviation) in enumerate(zip(WAN_MEAN, WAN_DEVIATION, strict=True)):
        torch.testing.assert_close(encoded(raw, clip(5))[:, channel], latents[:, channel] * deviation + mean)
    assert torch.equal(decoded(raw, latents), decoded(normalised, latents))


def test_weights_that_do_not_fit_are_named() -> None:
    tensors = random_taehv()
    del tensors["encoder.2.conv.weight"]
    tensors["decoder.22.bias"] = torch.zeros(12)
    tensors["decoder.23.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as error:
        TaehvCodec.from_state_dict(tensors, TAEHV, name="taew2_1.pth")
    assert str(error.value) == (
        "taew2_1.pth does not fit the model: missing: encoder.2.conv.weight; unknown: decoder.23.weight; "
        "of another shape: decoder.22.bias (12,) instead of (3,)"
    )
