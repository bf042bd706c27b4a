from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from pipelines.causal_wan.wan_vae import WanCodec
from pipelines.causal_wan.wan_vae_geometry import WanVaeGeometry
from pipelines.causal_wan.wan_vae_layout import original_name
from streamgen.errors import WeightsError
from tests.support.codecs import VAE, clip, decoded, encoded, random_vae, wan_codec

WIDER = WanVaeGeometry(
    base_dim=8, z_dim=2, dim_mult=(1, 2, 2, 4), num_res_blocks=2, latents_mean=(0.5, -1.0), latents_std=(2.0, 0.7)
)


def in_wans_layout(vae: AutoencoderKLWan, blocks: int) -> dict[str, torch.Tensor]:
    return {original_name(key, blocks): value for key, value in vae.state_dict().items()}


@pytest.mark.parametrize("geometry", [VAE, WIDER])
def test_chunks_are_encoded_and_decoded_as_the_whole_clip_is(geometry: WanVaeGeometry) -> None:
    vae = random_vae(geometry)
    frames = clip(17, streams=2)
    raw = vae.encode(frames.transpose(1, 2)).latent_dist.mode()
    whole = vae.decode(raw).sample.transpose(1, 2)
    assert whole.abs().max() < 1, "clamping would hide differences"

    codec = WanCodec.from_state_dict(vae.state_dict(), geometry, raw_latents=True)
    torch.testing.assert_close(encoded(codec, frames), raw, atol=1e-4, rtol=1e-4)
    mean, deviation = (torch.tensor(v)[:, None, None, None] for v in (geometry.latents_mean, geometry.latents_std))
    torch.testing.assert_close(decoded(codec, (raw - mean) / deviation), whole, atol=1e-4, rtol=1e-4)


def test_latents_are_normalised_unless_raw_ones_are_asked_for() -> None:
    raw, normalised = encoded(wan_codec(raw_latents=True), clip(9)), encoded(wan_codec(), clip(9))
    for channel, (mean, deviation) in enumerate(zip(VAE.latents_mean, VAE.latents_std, strict=True)):
        torch.testing.assert_close((raw[:, channel] - mean) / deviation, normalised[:, channel])
    # what comes out of a DiT counts as normalised either way
    assert torch.equal(decoded(wan_codec(raw_latents=True), normalised), decoded(wan_codec(), normalised))


def test_the_published_package_gives_the_same() -> None:
    published = pytest.importorskip("models.wan.wan_base.modules.vae", exc_type=ImportError)
    reference = published.WanVAE_(
        dim=VAE.base_dim, z_dim=VAE.z_dim, dim_mult=list(VAE.dim_mult), num_res_blocks=VAE.num_res_blocks,
        temperal_downsample=list(VAE.temperal_downsample),
    ).eval().requires_grad_(False)  # fmt: skip
    reference.load_state_dict(in_wans_layout(random_vae(), VAE.num_res_blocks), strict=True)
    codec = WanCodec.from_state_dict(reference.state_dict(), VAE, raw_latents=True)
    scale = [torch.tensor(VAE.latents_mean), 1 / torch.tensor(VAE.latents_std)]
    frames = clip(13)
    theirs = frames.transpose(1, 2)
    raw = torch.cat([reference.stream_encode(theirs[:, :, a:b], None) for a, b in ((0, 5), (5, 9), (9, 13))], dim=2)
    torch.testing.assert_close(encoded(codec, frames), raw, atol=1e-4, rtol=1e-4)
    shown = torch.cat([reference.stream_decode(raw[:, :, a:b], scale) for a, b in ((0, 2), (2, 3), (3, 4))], dim=2)
    torch.testing.assert_close(decoded(codec, raw), shown.clamp(-1, 1).transpose(1, 2), atol=1e-4, rtol=1e-4)


def test_wans_own_layout_is_loaded_as_that_of_diffusers() -> None:
    vae = random_vae(WIDER)
    own = in_wans_layout(vae, WIDER.num_res_blocks)
    assert "decoder.upsamples.5.residual.2.weight" in own
    codec, other = (WanCodec.from_state_dict(tensors, WIDER) for tensors in (own, vae.state_dict()))
    latents = encoded(codec, clip(5))
    assert torch.equal(latents, encoded(other, clip(5)))
    assert torch.equal(decoded(codec, latents), decoded(other, latents))


def test_wans_names_are_those_that_diffusers_converts() -> None:
    converters = pytest.importorskip("diffusers.loaders.single_file_utils", exc_type=ImportError)
    with torch.device("meta"):
        ours = AutoencoderKLWan(**WanVaeGeometry().config()).state_dict()
    own = {original_name(key, 2): key for key in ours}
    assert len(own) == len(ours) == 194
    assert converters.convert_wan_vae_to_diffusers(dict(own)) == {key: key for key in ours}


@pytest.mark.parametrize("own", [True, False], ids=["wan", "diffusers"])
def test_weights_that_do_not_fit_are_named_as_in_their_file(own: bool) -> None:
    tensors: dict[str, Any] = in_wans_layout(random_vae(), VAE.num_res_blocks) if own else random_vae().state_dict()
    missing, misshapen = (
        ("encoder.head.2.bias", "conv2.bias") if own else ("encoder.conv_out.bias", "post_quant_conv.bias")
    )
    del tensors[missing]
    tensors[misshapen] = torch.zeros(7)
    tensors["decoder.extra"] = torch.zeros(1)
    with pytest.raises(WeightsError) as error:
        WanCodec.from_state_dict(tensors, VAE, name="vae.pth")
    assert str(error.value) == (
        f"vae.pth does not fit the model: missing: {missing}; unknown: decoder.extra; "
        f"of another shape: {misshapen} (7,) instead of (4,)"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"temperal_downsample": (True, True, True)}, "two of them true"), ({"z_dim": 8}, "z_dim = 8 values")],
)
def test_sizes_that_no_codec_can_have_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WanVaeGeometry(**changes)


def test_the_state_of_wan_2_1_at_480p() -> None:
    geometry = WanVaeGeometry()
    held = geometry.encoder_bytes(480, 832, torch.bfloat16) + geometry.decoder_bytes(480, 832, torch.bfloat16)
    assert held == pytest.approx(2.80 * 2**30, rel=0.01)
