from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, suppress

import pytest

from streamgen.ice.sockets import bind


def free_ports(count: int) -> tuple[int, int]:
    """The ends of a range of ports that are all free now."""
    for first in range(42000, 60000, count):
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(bind("127.0.0.1", (port, port)))
            return first, first + count - 1
    raise AssertionError("no free range")


def test_every_port_of_the_range_is_found_and_no_other() -> None:
    first, last = free_ports(5)
    with ExitStack() as stack:
        sockets = [stack.enter_context(bind("127.0.0.1", (first, last))) for _ in range(5)]
        assert sorted(sock.getsockname()[1] for sock in sockets) == list(range(first, last + 1))
        assert not any(sock.getblocking() for sock in sockets)
        with pytest.raises(OSError, match="taken") as caught:
            bind("127.0.0.1", (first, last))
        assert caught.value.errno == errno.EADDRINUSE


def test_the_first_choice_is_not_always_the_same() -> None:
    ports = free_ports(50)
    chosen = set()
    for _ in range(20):
        with bind("127.0.0.1", ports) as sock:
            chosen.add(sock.getsockname()[1])
    assert len(chosen) > 1


def test_without_a_range_the_system_chooses() -> None:
    with bind("127.0.0.1", None) as sock:
        assert sock.family == socket.AF_INET
        assert sock.getsockname()[1] > 0


def test_an_address_that_is_not_here_is_no_question_of_ports() -> None:
    with pytest.raises(OSError, match="annot assign") as caught:
        bind("203.0.113.1", (50000, 50010))
    assert caught.value.errno == errno.EADDRNOTAVAIL
