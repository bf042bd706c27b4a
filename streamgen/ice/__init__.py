"""ICE as a service needs it, on top of aioice: chosen UDP ports, loopback, short waits, restarts."""

from streamgen.ice.connection import IceDescription, parse_candidate
from streamgen.ice.generation import MAX_CANDIDATES, usable
from streamgen.ice.peerconnection import PeerConnection
from streamgen.ice.settings import IceSettings

__all__ = ["MAX_CANDIDATES", "IceDescription", "IceSettings", "PeerConnection", "parse_candidate", "usable"]
