from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from streamgen import gate
from streamgen.gate import MAX_BODY_BYTES, Gate

LINK = "a-secret-of-its-own"


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"bytes": len(await request.body())})


def connect(token: str | None = None, origins: tuple[str, ...] = ()) -> httpx.AsyncClient:
    paths = ("/api/echo", "/api/jobs", "/api/jobs/x", "/whip", "/whip/x", "/whep/{x}")
    guarded = [Route(path, echo, methods=["GET", "POST", "PUT"]) for path in paths]
    app = Starlette(routes=[*guarded, Route("/healthz", echo)])
    transport = httpx.ASGITransport(Gate(app, token, origins, lambda stream: stream == LINK))
    return httpx.AsyncClient(transport=transport, base_url="http://host:8000")


async def test_without_a_token_everything_is_open() -> None:
    async with connect() as http:
        answer = await http.post("/api/echo", content=b"x" * 1000)
        assert answer.json() == {"bytes": 1000}
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", "Basic secret", "Bearer secretx", "Bearer s\xe9cret"]
)
async def test_the_api_asks_for_the_token(given: str | None) -> None:
    async with connect("secret") as http:
        headers = {} if given is None else {"Authorization": given.encode("latin-1")}
        answer = await http.get("/api/echo", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "secret" not in answer.text


async def test_whip_and_whep_ask_for_it_too_but_for_links_that_are_secrets() -> None:
    async with connect("secret") as http:
        for path in ("/whip", "/whip/x", "/whep/x"):
            assert (await http.post(path)).status_code == 401
        assert (await http.post(f"/whep/{LINK}")).status_code == 200
        assert (await http.post(f"/whep/{LINK}x")).status_code == 401


async def test_the_right_token_passes_and_health_needs_none() -> None:
    async with connect("secret") as http:
        assert (await http.get("/api/echo", headers={"Authorization": "bearer secret"})).status_code == 200
        assert (await http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("origin", ["http://host:8000", "https://HOST:8000"])
async def test_the_own_origin_passes(origin: str) -> None:
    async with connect() as http:
        assert (await http.post("/api/echo", headers={"Origin": origin})).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://host:9000", "http://host", "http://[", ""])
async def test_other_origins_do_not(origin: str) -> None:
    async with connect(origins=("https://ok.example",)) as http:
        answer = await http.post("/api/echo", headers={"Origin": origin})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "bad_origin"
        assert "access-control-allow-origin" not in answer.headers


async def test_allowed_origins_pass_and_may_read_the_answer() -> None:
    async with connect("secret", origins=("https://OK.example/",)) as http:
        headers = {"Origin": "https://ok.example", "Authorization": "Bearer secret"}
        answer = await http.post("/api/echo", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://ok.example"
        assert "origin" in answer.headers["vary"].lower()
        refused = await http.post("/api/echo", headers={"Origin": "https://ok.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://ok.example"


async def test_a_preflight_needs_no_token() -> None:
    async with connect("secret", origins=("https://ok.example",)) as http:
        answer = await http.options("/api/echo", headers={"Origin": "https://ok.example"})
        assert answer.status_code == 204
        assert "PATCH" in answer.headers["access-control-allow-methods"]
        assert "Authorization" in answer.headers["access-control-allow-headers"]
        assert (await http.options("/api/echo", headers={"Origin": "https://evil.example"})).status_code == 403


async def test_a_body_of_exactly_the_limit_passes_and_one_more_byte_does_not() -> None:
    async with connect() as http:
        assert (await http.post("/api/echo", content=b"x" * MAX_BODY_BYTES)).status_code == 200
        answer = await http.post("/api/echo", content=b"x" * (MAX_BODY_BYTES + 1))
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"
        assert answer.headers["connection"] == "close"


async def test_a_body_without_announced_length_is_counted_while_it_comes() -> None:
    sent = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield b"x" * 10_000

    async with connect() as http:
        assert (await http.post("/api/echo", content=flood())).status_code == 413


async def test_files_go_on_to_their_route_as_they_come_and_behind_the_token_only() -> None:
    file = b"x" * (MAX_BODY_BYTES + 1)
    async with connect("secret") as http:
        assert (await http.post("/api/jobs", content=file)).status_code == 401
        http.headers["Authorization"] = "Bearer secret"
        assert (await http.post("/api/jobs", content=file)).json() == {"bytes": len(file)}
        assert (await http.put("/api/jobs", content=file)).status_code == 413
        assert (await http.post("/api/jobs/x", content=file)).status_code == 413
        assert (
            await http.post("/api/jobs", content=file, headers={"Origin": "http://evil.example"})
        ).status_code == 403


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_TIMEOUT_S", 0.02)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with connect() as http:
        answer = await http.post("/api/echo", content=stuck())
        assert answer.status_code == 408
