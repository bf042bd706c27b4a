from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import pytest

from streamgen.errors import BusyError, EngineError, OfferError, SessionNotFoundError
from streamgen.metrics import Metrics
from streamgen.session import Session
from streamgen.turn import IceServer
from streamgen.web import Audience, Opened, create_app
from streamgen.whip import Connected, IceSession
from tests.support.service import SMALL, ManualClock, feed, make_session
from tests.support.webrtc import until


class FakeBackend:
    """Opens sessions without connections."""

    def __init__(self) -> None:
        self.state = "ready"
        self.preset = "tiny"
        self.sessions: dict[str, Session] = {}
        self.error: Exception | None = None

    async def open(self, sdp: str, params: Mapping[str, object], client: str = "") -> Opened:
        if self.error is not None:
            raise self.error
        session = make_session(params=SMALL.updated(params), session_id="abc")
        session.connected()
        self.sessions[session.id] = session
        return Opened(session, f"answer to {sdp}")

    async def resume(self, session_id: str, sdp: str) -> Opened:
        return Opened(self.session(session_id), f"another answer to {sdp}")

    def ice_servers_for(self, connection_id: str) -> list[IceServer]:
        return [IceServer("stun:stun.example:3478"), IceServer("turn:turn.example", connection_id, "secret")]

    def audience(self, session_id: str) -> Audience:
        return Audience("watched", len(self.session(session_id).id))

    def is_link(self, stream: str) -> bool:
        return stream == "watched"

    async def publish(self, sdp: str, params: Mapping[str, object], name: str) -> Connected:
        raise AssertionError("not asked for here; see test_whip.py")

    async def watch(self, stream: str, sdp: str) -> Connected:
        raise AssertionError("not asked for here; see test_whip.py")

    async def stop_watching(self, viewer_id: str) -> None:
        raise AssertionError("not asked for here; see test_whip.py")

    def ice(self, connection_id: str) -> IceSession:
        raise AssertionError("not asked for here; see test_whip.py")

    def session(self, session_id: str) -> Session:
        try:
            return self.sessions[session_id]
        except KeyError:
            raise SessionNotFoundError("no session has this id") from None

    async def close(self, session_id: str, reason: str) -> None:
        self.session(session_id).close()
        del self.sessions[session_id]

    def presets(self) -> list[dict[str, object]]:
        return [{"name": "tiny", "loaded": True}]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
async def http(backend: FakeBackend, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    (tmp_path / "index.html").write_text("<h1>streamgen</h1>")
    (tmp_path / "streamgen.js").write_text("export const x = 1;")
    metrics = Metrics()
    metrics.dropped("late", 2)
    app = create_app(backend, metrics, tmp_path)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        yield client


async def test_a_session_from_its_opening_to_its_end(http: httpx.AsyncClient, backend: FakeBackend) -> None:
    answer = await http.post("/api/sessions", json={"sdp": "x", "type": "offer", "params": {"prompt": "ink"}})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/api/sessions/abc"
    body = answer.json()
    assert body["params"].pop("prompt") == "ink"
    assert body["params"]["width"] == 64
    del body["params"]
    assert body == {
        "id": "abc",
        "sdp": "answer to x",
        "type": "answer",
        "ice_servers": [
            {"urls": "stun:stun.example:3478"},
            {"urls": "turn:turn.example", "username": "abc", "credential": "secret"},
        ],
        "state": "warming",
        "frame_size": [64, 64],
    }
    shown = (await http.get("/api/sessions/abc")).json()
    assert shown["state"] == "warming"
    assert shown["slo"] == {"fps": 16.0, "slo_ms": 1000.0}
    assert (shown["watch"], shown["viewers"]) == ("/watch/watched", 3)
    assert shown["stats"]["frames_in"] == 0
    again = await http.post("/api/sessions/abc", json={"sdp": "y"})
    assert (again.status_code, again.json()["sdp"], again.json()["id"]) == (200, "another answer to y", "abc")
    assert (await http.post("/api/sessions/nobody", json={"sdp": "y"})).status_code == 404
    assert (await http.delete("/api/sessions/abc")).status_code == 204
    assert (await http.get("/api/sessions/abc")).status_code == 404


async def test_a_patch_answers_when_it_holds(http: httpx.AsyncClient, backend: FakeBackend) -> None:
    await http.post("/api/sessions", json={"sdp": "x"})
    session = backend.sessions["abc"]
    feed(session, ManualClock(), 4)
    patch = asyncio.create_task(http.patch("/api/sessions/abc", json={"params": {"prompt": "ink"}}))
    await until(lambda: len(session._updates))
    session.submit([0, 1, 2, 3])
    answer = await patch
    assert answer.status_code == 200
    assert answer.json()["frame"] == 0
    assert answer.json()["params"]["prompt"] == "ink"


@pytest.mark.parametrize(
    ("content", "status", "code", "field"),
    [
        (b"", 422, "bad_request", "body"),
        (b"{", 400, "bad_json", None),
        (b"[" * 100_000, 400, None, None),
        (b"[]", 422, "bad_request", "body"),
        (b"{}", 422, "bad_request", "sdp"),
        (b'{"sdp": 5}', 422, "bad_request", "sdp"),
        (b'{"sdp": "x", "type": "answer"}', 422, "bad_request", "type"),
        (b'{"sdp": "x", "params": []}', 422, "bad_request", "params"),
        (b'{"sdp": "x", "params": {"steps": 9}}', 422, "bad_params", "steps"),
        (b'{"sdp": "x", "params": {"noise": NaN}}', 422, "bad_params", "noise"),
        (b'{"sdp": "x", "params": {"noise": 1e999}}', 422, "bad_params", "noise"),
        (b'{"sdp": "x", "params": {"noise": ' + b"9" * 400 + b"}}", 422, "bad_params", "noise"),
        (b'{"sdp": "x", "params": {"seed": ' + b"9" * 400 + b"}}", 422, "bad_params", "seed"),
        (b'{"sdp": "x", "params": {"prompt": "\\ud800"}}', 422, "bad_params", "prompt"),
        (b'{"sdp": "x", "params": {"\\ud800": 1}}', 422, "bad_params", None),
        (b'{"sdp": "x", "params": {"prompt": "' + b"x" * 100_000 + b'"}}', 422, "bad_params", "prompt"),
        (b'{"sdp": "' + b"x" * 200_000 + b'"}', 413, "too_large", None),
    ],
)
async def test_bad_requests_get_json_that_says_what_is_wrong(
    http: httpx.AsyncClient, content: bytes, status: int, code: str | None, field: str | None
) -> None:
    answer = await http.post("/api/sessions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert len(error["message"]) < 800
    assert code is None or error["code"] == code
    assert field is None or error["field"] == field


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BusyError("full", 5), 503, "busy"),
        (OfferError("no"), 400, "bad_offer"),
        (EngineError("broken"), 503, "engine_failed"),
        (RuntimeError("our own bug"), 500, "internal"),
    ],
)
async def test_errors_of_the_service_as_json(
    http: httpx.AsyncClient, backend: FakeBackend, error: Exception, status: int, code: str
) -> None:
    backend.error = error
    answer = await http.post("/api/sessions", json={"sdp": "x"})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert "our own bug" not in answer.text
    assert answer.headers.get("retry-after") == ("5" if code == "busy" else None)


async def test_what_is_not_there(http: httpx.AsyncClient) -> None:
    for method, path, status, code in (
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/assets/nothing.js", 404, "not_found"),
        ("GET", "/assets/../pyproject.toml", 404, "not_found"),
        ("GET", "/assets/%2e%2e/%2e%2e/etc/passwd", 404, "not_found"),
        ("PUT", "/api/sessions", 405, "method_not_allowed"),
        ("GET", "/api/sessions/nobody", 404, "no_such_session"),
        ("DELETE", "/api/sessions/nobody", 404, "no_such_session"),
    ):
        answer = await http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    answer = await http.patch("/api/sessions/nobody", json={"params": {}})
    assert answer.status_code == 404


async def test_presets(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/presets")).json() == {"presets": [{"name": "tiny", "loaded": True}], "current": "tiny"}


async def test_health_readiness_and_metrics(http: httpx.AsyncClient, backend: FakeBackend) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    assert (await http.head("/healthz")).status_code == 200
    assert (await http.get("/readyz")).json() == {"status": "ready"}
    backend.state = "restarting"
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "restarting"})
    metrics = await http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'streamgen_frames_dropped_total{reason="late"} 2.0' in metrics.text


async def test_the_page_and_its_files(http: httpx.AsyncClient) -> None:
    page = await http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["cache-control"] == "no-cache"
    assert "streamgen" in page.text
    for path in ("/sdk/streamgen.js", "/assets/streamgen.js"):
        script = await http.get(path)
        assert script.headers["content-type"].startswith("text/javascript")


async def test_an_installation_without_the_page_says_so(tmp_path: Path, backend: FakeBackend) -> None:
    transport = httpx.ASGITransport(create_app(backend, Metrics(), tmp_path / "none"))
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
        answer = await http.get("/")
        assert answer.status_code == 404
        assert "index.html" in answer.json()["error"]["message"]


async def test_openapi_describes_the_api(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert set(document["paths"]) >= {
        "/api/presets",
        "/api/sessions",
        "/api/sessions/{session_id}",
        "/readyz",
        "/whip",
        "/whep/{stream}",
    }
    assert set(document["paths"]["/api/sessions/{session_id}"]) == {"get", "post", "patch", "delete"}
    assert "OpenReply" in json.dumps(document["paths"]["/api/sessions"]["post"]["responses"]["201"])


async def test_the_token_guards_the_api_only(tmp_path: Path, backend: FakeBackend) -> None:
    transport = httpx.ASGITransport(create_app(backend, Metrics(), tmp_path, token="secret"))
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
        assert (await http.get("/api/presets")).status_code == 401
        assert (await http.get("/api/presets", headers={"Authorization": "Bearer secret"})).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
