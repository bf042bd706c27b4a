from __future__ import annotations

import pytest
from aiortc.rtcdtlstransport import RTCCertificate, SRTPProtectionProfile, generate_certificate
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL

from tests.support.stage import Stage
from tests.support.webrtc import client, no_leaks, until


class RsaCertificate(RTCCertificate):
    """As GStreamer has them."""

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256")
        return context


@pytest.fixture(scope="module")
def rsa_certificate() -> RsaCertificate:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return RsaCertificate(key, generate_certificate(key))  # type: ignore[arg-type]


async def test_a_peer_with_a_certificate_of_rsa_connects(rsa_certificate: RsaCertificate) -> None:
    stage = Stage()
    async with no_leaks(), client() as peer:
        for transceiver in peer.connection.getTransceivers():
            transceiver.receiver.transport._RTCDtlsTransport__local_certificate = rsa_certificate
        peer.connection.sctp.transport._RTCDtlsTransport__local_certificate = rsa_certificate
        peer.connection._RTCPeerConnection__certificates = [rsa_certificate]
        await stage.open(peer)
        await until(lambda: peer.frames, "a picture")
        assert {it.receiver.transport._role for it in peer.connection.getTransceivers()} == {"server"}
        await stage.stop()
