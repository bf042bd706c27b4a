"""The causal Wan family: DiT, rolling KV cache, sampler, noise control, autoencoders, text encoders, weights."""
