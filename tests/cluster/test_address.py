from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamgen.cluster.address import ON_LOOPBACK, reach
from streamgen.errors import FleetError


@pytest.fixture
def address() -> Iterator[str]:
    """Somebody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_ray_on_loopback_is_to_stay_there(address: str) -> None:
    environ: dict[str, str] = {}
    assert reach(address, environ) == address
    assert environ == {ON_LOOPBACK: "0"}
    environ = {ON_LOOPBACK: "1"}
    reach(address, environ)
    assert environ == {ON_LOOPBACK: "1"}  # as somebody wants it


def test_auto_is_what_the_environment_says_or_what_runs_here(address: str, tmp_path: Path) -> None:
    assert reach("auto", {"RAY_ADDRESS": address}) == address
    with pytest.raises(FleetError, match="no Ray runs on this machine"):
        reach("auto", {"RAY_TMPDIR": str(tmp_path)})
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"{address}\n")
    assert reach("auto", {"RAY_TMPDIR": str(tmp_path)}) == address


@pytest.mark.parametrize("given", ["nonsense", "127.0.0.1:x", ":"])
def test_what_the_environment_says_may_be_nonsense(given: str) -> None:
    with pytest.raises(FleetError, match="no Ray can be reached"):
        reach("auto", {"RAY_ADDRESS": given})


def test_where_nobody_listens_that_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(FleetError, match=f"no Ray can be reached at {address} .*refused.*ray start"):
            reach(address, {})
