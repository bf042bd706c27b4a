"""streamgen: live video restyled by a causal video diffusion transformer, served over WebRTC."""

__version__ = "0.1.0"
