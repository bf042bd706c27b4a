"""Where Ray is: looked at before Ray is imported, as it reads its environment then, and waits long for nobody."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from streamgen.errors import FleetError

REACH_S = 5.0
"""Ray takes a connection within this time, or is not there."""

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where it is 0, Ray takes a loopback address for what it is, and not for another one of the machine."""


def reach(address: str, environ: MutableMapping[str, str] = os.environ) -> str:
    """HOST:PORT of the Ray at `address`, which may be "auto". Sets what Ray is to find in its environment.

    Raises FleetError where nobody listens there.
    """
    found = _found(environ) if address == "auto" else address
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, ValueError) as error:
        raise FleetError(f"no Ray can be reached at {found} ({error}); start it with: ray start --head") from None
    if host in LOOPBACK:
        environ.setdefault(ON_LOOPBACK, "0")
    return found


def _found(environ: MutableMapping[str, str]) -> str:
    """What the environment says, or the cluster that this machine is part of."""
    if given := environ.get("RAY_ADDRESS"):
        return given
    folder = Path(environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    try:
        return (folder / "ray" / "ray_current_cluster").read_text().strip()
    except OSError:
        raise FleetError("no Ray runs on this machine; start it with: ray start --address=HOST:6379") from None
