import torch

from pipelines.causal_wan.autoencoder import AutoencoderGeometry, AutoencoderState, StreamingAutoencoder


def model() -> StreamingAutoencoder:
    torch.manual_seed(0)
    made = StreamingAutoencoder(AutoencoderGeometry(latent_channels=8, width=16, frame_width=8)).eval()
    made.mean.normal_()
    made.deviation.uniform_(0.5, 2.0)
    return made.requires_grad_(False)


def chunk(seed: int) -> torch.Tensor:
    return torch.rand(1, 4, 3, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_eight_times_in_space_and_four_in_time() -> None:
    autoencoder = model()
    latent, state = autoencoder.encode(chunk(0), AutoencoderState())
    assert latent.shape == (1, 8, 4, 6)
    frames, state = autoencoder.decode(latent, state)
    assert frames.shape == (1, 4, 3, 32, 48)
    assert state.encoder is not None
    assert state.decoder is not None


def test_state_carries_from_chunk_to_chunk_both_ways() -> None:
    autoencoder = model()
    _, after = autoencoder.encode(chunk(0), AutoencoderState())
    with_past, _ = autoencoder.encode(chunk(1), after)
    without, _ = autoencoder.encode(chunk(1), AutoencoderState())
    assert (with_past - without).abs().max() > 1e-4
    _, after = autoencoder.decode(without, AutoencoderState())
    assert (
        autoencoder.decode(without, after)[0] - autoencoder.decode(without, AutoencoderState())[0]
    ).abs().max() > 1e-4


def test_weights_hold_no_state() -> None:
    autoencoder = model()
    before, _ = autoencoder.encode(chunk(0), AutoencoderState())
    autoencoder.encode(chunk(5), AutoencoderState())
    after, _ = autoencoder.encode(chunk(0), AutoencoderState())
    assert torch.equal(before, after)
