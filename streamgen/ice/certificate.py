"""The certificate of a connection, and what DTLS may be agreed on with it."""

from __future__ import annotations

from aiortc.rtcdtlstransport import RTCCertificate, SRTPProtectionProfile
from OpenSSL import SSL

_WITHOUT_KEY = "AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES128-SHA", "AES256-SHA"
CIPHERS = ":".join(f"ECDHE-{key}-{rest}" for key in ("ECDSA", "RSA") for rest in _WITHOUT_KEY)
"""As aiortc's, and the same for RSA, which is what GStreamer's certificates are made of; RFC 8827 (section 6.5) leaves
them to each side."""


class Certificate(RTCCertificate):
    """On P-256, as aiortc's; with whoever has one of RSA it works too, where that side is the DTLS server."""

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(CIPHERS.encode())
        return context
