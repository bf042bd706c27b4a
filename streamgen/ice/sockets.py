"""UDP sockets in a range of ports."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator

from aioice.turn import UDP_SOCKET_BUFFER_SIZE

_TAKEN = (errno.EADDRINUSE, errno.EACCES)  # Windows says EACCES where another program holds a port to itself
_random = random.SystemRandom()


def bind(address: str, ports: tuple[int, int] | None) -> socket.socket:
    """A non-blocking UDP socket on `address`, at a random free port of `ports` (first, last) or of the system's choice.

    Raises OSError where the address cannot be bound to; its errno is EADDRINUSE where all ports are taken.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in _in_random_order(ports):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_SOCKET_BUFFER_SIZE)
            sock.bind((address, port))
        except OSError as error:
            sock.close()
            if ports is None or error.errno not in _TAKEN:
                raise
        else:
            return sock
    raise OSError(errno.EADDRINUSE, "all ports of the range are taken")


def _in_random_order(ports: tuple[int, int] | None) -> Iterator[int]:
    """Every port once, from a random one on: neither predictable nor always a search past those in use."""
    if ports is None:
        yield 0
        return
    first, last = ports
    count = last - first + 1
    start = _random.randrange(count)
    for step in range(count):
        yield first + (start + step) % count
