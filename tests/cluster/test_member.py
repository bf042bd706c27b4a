from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from streamgen.cluster.member import Trusting, listen_in, obey
from streamgen.cluster.messages import Drain, Move
from streamgen.server import ListenError
from tests.support.stage import Stage


async def whose(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.client.host if request.client else "nobody")


@pytest.mark.parametrize(
    ("headers", "taken_for"),
    [
        ({}, "10.0.0.5"),
        ({"X-Streamgen-Client": "203.0.113.9"}, "10.0.0.5"),
        ({"X-Streamgen-Gateway": "guess", "X-Streamgen-Client": "203.0.113.9"}, "10.0.0.5"),
        ({"X-Streamgen-Gateway": "k\xe9y".encode("latin-1"), "X-Streamgen-Client": "203.0.113.9"}, "10.0.0.5"),
        ({"X-Streamgen-Gateway": "key", "X-Streamgen-Client": "203.0.113.9"}, "203.0.113.9"),
        ({"X-Streamgen-Gateway": "key"}, ""),
    ],
)
async def test_only_who_knows_the_key_may_say_whose_a_request_is(
    headers: dict[str, str | bytes], taken_for: str
) -> None:
    app = Trusting(Starlette(routes=[Route("/", whose)]), "key")
    transport = httpx.ASGITransport(app, client=("10.0.0.5", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as http:
        assert (await http.get("/", headers=headers)).text == taken_for  # type: ignore[arg-type]


def test_a_node_takes_the_first_port_of_its_range_that_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, listen_in("127.0.0.1", None) as any_port:
        first = taken.getsockname()[1]
        assert any_port.getsockname()[1] not in (0, first)
        with listen_in("127.0.0.1", (first, first + 20)) as found:
            assert first < found.getsockname()[1] <= first + 20
        with pytest.raises(ListenError, match=f"port {first} is in use"):
            listen_in("127.0.0.1", (first, first))


async def test_orders_reach_the_service() -> None:
    stage = Stage()
    obey(stage.service, Drain(True))
    assert stage.service.state == "draining"
    obey(stage.service, Move(3, "why"))
    obey(stage.service, Drain(False))
    assert stage.service.state == "ready"
    await stage.stop()
    await asyncio.sleep(0)
