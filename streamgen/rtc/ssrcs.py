"""A bound on the RTP sources of one connection: aiortc keeps something for every SSRC it ever saw.

With more than 31 its receiver reports cannot be written any more, which ends the task that a receiver waits for when it
is stopped: the connection can then not be closed.
"""

from __future__ import annotations

from aiortc import RTCDtlsTransport
from aiortc.rtp import RtpPacket

MOST = 16
"""A client has one for each track, one for its repetitions, and others when it changes its source."""
_ROUTER = "_rtp_router"


def limit_sources(transport: RTCDtlsTransport) -> bool:
    """Has packets of further sources dropped. False where this aiortc routes elsewhere."""
    router = getattr(transport, _ROUTER, None)
    if router is None or not hasattr(router, "route_rtp") or not hasattr(router, "ssrc_table"):
        return False
    route = router.route_rtp

    def route_known(packet: RtpPacket) -> object:
        if packet.ssrc not in router.ssrc_table and len(router.ssrc_table) >= MOST:
            return None
        return route(packet)

    router.route_rtp = route_known
    return True
