from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamgen.cluster.fleet import Fleet
from streamgen.cluster.gateway import Gateway, create_gateway
from streamgen.cluster.gauges import Gauges
from streamgen.cluster.relay import Relay
from tests.support.fleet import told
from tests.support.service import ManualClock

OFFER = {"sdp": "v=0", "params": {"prompt": "ink"}}
BEARER = {"Authorization": "Bearer secret"}
PAGE = {"Origin": "http://gateway"}


@dataclass
class Site:
    """A gateway in memory, and what its nodes were asked."""

    answer: Callable[[httpx.Request], httpx.Response] = lambda request: httpx.Response(201, json={"id": "n0.abc"})
    asked: list[httpx.Request] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)
    fleet: Fleet = field(default_factory=lambda: Fleet(["n0", "n1"]))

    def hear(self, name: str, **changes: Any) -> None:
        url = f"http://10.0.0.{name[1:]}:4000"
        self.fleet.hear(
            self.clock.now(), name, told(f"life of {name}", url=url, public=f"https://{name}.example", **changes)
        )

    def connect(self, folder: Path, token: str | None = "secret", *, relays: bool = False) -> httpx.AsyncClient:
        async def handle(request: httpx.Request) -> httpx.Response:
            await request.aread()
            self.asked.append(request)
            answer = self.answer(request)
            return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content))

        (folder / "index.html").write_text("<h1>streamgen</h1>")
        (folder / "streamgen.js").write_text("export const x = 1;")
        gateway = Gateway(self.fleet, Gauges(), Relay(httpx.MockTransport(handle)), self.clock, relays_all=relays)
        app = create_gateway(
            gateway, folder, [{"name": "fake"}], "fake", token=token, allowed_origins=("https://ok.example",)
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("198.51.100.7", 1234))
        return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=BEARER)


@pytest.fixture
def site() -> Site:
    made = Site()
    made.hear("n0")
    made.hear("n1")
    return made


@pytest.fixture
async def http(site: Site, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with site.connect(tmp_path) as client:
        yield client


async def test_sessions_and_streams_are_led_to_the_nodes_with_all_that_they_ask(http: httpx.AsyncClient) -> None:
    first, second = [await http.post("/api/sessions", json=OFFER) for _ in range(2)]
    assert (first.status_code, first.headers["location"]) == (307, "https://n0.example/api/sessions")
    assert first.json() == {"location": "https://n0.example/api/sessions"}
    assert second.headers["location"] == "https://n1.example/api/sessions"
    answer = await http.post("/whip?name=cam&prompt=oil%20paint&steps=2", content=b"v=0")
    assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
    assert answer.headers["location"] == "https://n0.example/whip?name=cam&prompt=oil%20paint&steps=2"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/sessions/n1.abc"),
        ("POST", "/api/sessions/n1.abc"),
        ("PATCH", "/api/sessions/n1.abc"),
        ("DELETE", "/api/sessions/n1.abc"),
        ("PATCH", "/whip/n1.abc"),
        ("DELETE", "/whip/n1.abc"),
        ("POST", "/whep/n1.abc"),
        ("PATCH", "/whep/n1.abc"),
        ("DELETE", "/whep/n1.abc"),
        ("GET", "/api/jobs/n1.abc"),
        ("DELETE", "/api/jobs/n1.abc"),
        ("GET", "/api/jobs/n1.abc/result"),
    ],
)
async def test_what_there_is_is_found_by_its_id(http: httpx.AsyncClient, site: Site, method: str, path: str) -> None:
    answer = await http.request(method, path, params={"x": "1"})
    assert (answer.status_code, answer.headers["location"]) == (307, f"https://n1.example{path}?x=1")
    gone = await http.request(method, path.replace("n1.", "n7."))
    assert (gone.status_code, gone.json()["error"]["code"][:8]) == (404, "no_such_")
    site.fleet.node("n1").lose("it burns")
    gone = await http.request(method, path)
    assert gone.status_code == 404
    assert "ended" in gone.json()["error"]["message"] or "over" in gone.json()["error"]["message"]


async def test_names_are_found_by_who_publishes_them(http: httpx.AsyncClient, site: Site) -> None:
    site.hear("n1", names=("studio",))
    assert (await http.post("/whep/studio")).headers["location"] == "https://n1.example/whep/studio"
    assert (await http.post("/whip?name=studio")).headers["location"].startswith("https://n1.example/whip?")
    answer = await http.post("/whep/stage")
    assert (answer.status_code, answer.headers["retry-after"]) == (409, "5")
    assert answer.json()["error"]["code"] == "not_live"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b"{}", 422, "bad_request"),
        (b'{"sdp": 5}', 422, "bad_request"),
        (b'{"sdp": "x", "type": "answer"}', 422, "bad_request"),
        (b'{"sdp": "' + b"x" * 200_000 + b'"}', 413, "too_large"),
    ],
)
async def test_bad_requests_are_told_so_at_once_and_cost_no_node_anything(
    http: httpx.AsyncClient, site: Site, content: bytes, status: int, code: str
) -> None:
    answer = await http.post("/api/sessions", content=content, headers={"Content-Type": "application/json", **PAGE})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert site.asked == []


async def test_other_mistakes_have_the_form_of_the_service(http: httpx.AsyncClient) -> None:
    for method, path, status, code in [
        ("GET", "/nowhere", 404, "not_found"),
        ("PUT", "/api/sessions", 405, "method_not_allowed"),
        ("POST", "/whip?name=not/a/name", 422, "bad_params"),
        ("POST", "/api/cluster/n9/drain", 404, "no_such_node"),
    ]:
        answer = await http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_without_room_or_nodes_it_says_when_to_come_again(http: httpx.AsyncClient, site: Site) -> None:
    for name in ("n0", "n1"):
        site.hear(name, room=0, places=0)
    answer = await http.post("/api/sessions", json=OFFER)
    assert (answer.status_code, answer.headers["retry-after"], answer.json()["error"]["code"]) == (503, "5", "busy")
    site.clock.time += 60
    for path in ("/api/sessions", "/whip", "/api/jobs"):
        answer = await http.post(path, json=OFFER)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "streamgen_fleet_refused_total 3.0" in (await http.get("/metrics")).text


@pytest.mark.parametrize("path", ["/api/sessions", "/whip", "/whep/studio", "/api/cluster/n0/drain", "/api/jobs"])
async def test_everything_asks_for_the_token(http: httpx.AsyncClient, site: Site, path: str) -> None:
    for given in ("", "Bearer wrong"):
        answer = await http.post(path, json=OFFER, headers={"Authorization": given, **PAGE})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert not site.fleet.node("n0").draining
    assert site.asked == []


async def test_links_for_viewers_go_to_the_node_which_knows_whether_they_are_any(
    http: httpx.AsyncClient, site: Site
) -> None:
    site.answer = lambda request: httpx.Response(401, json={"error": {}}, headers={"WWW-Authenticate": "Bearer"})
    del http.headers["Authorization"]
    answer = await http.post("/whep/n1.guessed", content=b"v=0", headers={"Content-Type": "application/sdp", **PAGE})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert [str(request.url) for request in site.asked] == ["http://10.0.0.1:4000/whep/n1.guessed"]
    assert "authorization" not in site.asked[0].headers  # the gateway adds nothing that it was not given


async def test_pages_get_the_nodes_answer_itself(http: httpx.AsyncClient, site: Site) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        headers = [
            ("Location", "/api/sessions/n0.abc"),
            ("Link", "<stun:a>"),
            ("Link", "<stun:b>"),
            ("Set-Cookie", "x=1"),
        ]
        return httpx.Response(201, json={"id": "n0.abc"}, headers=headers)

    site.answer = answer
    headers = {**PAGE, "X-Streamgen-Client": "203.0.113.1", "X-Streamgen-Gateway": "guess", "Cookie": "x=2"}
    got = await http.post("/api/sessions?x=%20y", json=OFFER, headers=headers)
    assert (got.status_code, got.json(), got.headers["location"]) == (201, {"id": "n0.abc"}, "/api/sessions/n0.abc")
    assert got.headers.get_list("link") == ["<stun:a>", "<stun:b>"]
    assert "set-cookie" not in got.headers
    (asked,) = site.asked
    assert str(asked.url) == "http://10.0.0.0:4000/api/sessions?x=%20y"
    assert json.loads(asked.content) == OFFER
    assert asked.headers["authorization"] == "Bearer secret"
    assert (asked.headers["x-streamgen-client"], asked.headers["x-streamgen-gateway"]) == ("198.51.100.7", "key")
    assert not {"origin", "cookie"} & set(asked.headers)
    shown = await http.get("/api/sessions/n0.abc", headers={"Prefer": "relay"})
    assert (shown.status_code, len(site.asked)) == (201, 2)


async def test_pages_of_others_are_refused_but_for_those_that_are_allowed(http: httpx.AsyncClient, site: Site) -> None:
    answer = await http.post("/api/sessions", json=OFFER, headers={"Origin": "https://evil.example"})
    assert (answer.status_code, site.asked) == (403, [])
    answer = await http.post("/api/sessions", json=OFFER, headers={"Origin": "https://ok.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (201, "https://ok.example")


@pytest.mark.parametrize("rest", ["%00", "%2F..%2Fadmin", "%0d%0aX: 1", "%c3%a9", "a?x=%00&y=%0d%0a", "%25"])
async def test_odd_ids_stay_what_they_are(http: httpx.AsyncClient, site: Site, rest: str) -> None:
    for headers in ({}, {"Prefer": "relay"}):
        answer = await http.get(f"/api/sessions/n0.{rest}", headers=headers)
        if answer.status_code == 404:  # not of one part: it is no id
            assert site.asked == []
            continue
        went = answer.headers["location"] if not headers else str(site.asked[-1].url)
        assert went.startswith(("https://n0.example/api/sessions/n0.", "http://10.0.0.0:4000/api/sessions/n0."))
        assert not set(went) & set("\r\n\0")
        assert all("x" not in request.headers for request in site.asked)


async def test_files_pass_through_as_they_come(site: Site, tmp_path: Path) -> None:
    site.hear("n1", jobs=3)
    file = b"x" * 1_000_000
    async with site.connect(tmp_path, relays=True) as http:
        answer = await http.post("/api/jobs?prompt=ink", content=file)
        assert answer.status_code == 201
    (asked,) = site.asked
    assert (str(asked.url), asked.content == file) == ("http://10.0.0.1:4000/api/jobs?prompt=ink", True)
    assert asked.headers["content-length"] == "1000000"
    assert "transfer-encoding" not in asked.headers


async def test_a_gateway_may_pass_everything_on(site: Site, tmp_path: Path) -> None:
    async with site.connect(tmp_path, relays=True) as http:
        assert (await http.post("/api/sessions", json=OFFER)).status_code == 201
        assert (await http.delete("/whip/n1.abc")).status_code == 201
        text = (await http.get("/metrics")).text
    assert 'streamgen_fleet_requests_total{node="n1",way="relay"} 1.0' in text
    assert [request.content for request in site.asked[1:]] == [b""]


async def test_where_a_node_does_not_answer_the_next_one_does(http: httpx.AsyncClient, site: Site) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "10.0.0.0":
            raise httpx.ConnectError("refused")
        return httpx.Response(201, json={"id": "n1.abc"})

    site.answer = answer
    for path, content in (("/api/sessions", b'{"sdp": "v=0"}'), ("/whip", b"v=0")):
        site.hear("n0")
        kind = {"Content-Type": "application/json" if path.startswith("/api") else "application/sdp"}
        got = await http.post(path, content=content, headers=PAGE | kind)
        assert (got.status_code, got.json(), site.asked[-1].content) == (201, {"id": "n1.abc"}, content)
    assert [request.url.host for request in site.asked] == ["10.0.0.0", "10.0.0.1"] * 2
    assert site.fleet.node("n0").state(site.clock.now()) == "silent"
    got = await http.delete("/api/sessions/n0.abc", headers=PAGE)
    assert (got.status_code, got.headers["retry-after"], got.json()["error"]["code"]) == (503, "1", "busy")
    site.fleet.node("n1").lose("it burns")
    site.hear("n0")
    got = await http.post("/api/sessions", json=OFFER, headers=PAGE)
    assert (got.status_code, got.headers["retry-after"]) == (503, "2")


async def test_draining_and_filling_again(http: httpx.AsyncClient, site: Site) -> None:
    site.hear("n0", sessions=3, load=0.25)
    answer = await http.post("/api/cluster/n0/drain")
    assert answer.status_code == 202
    assert answer.json() == {
        "name": "n0",
        "state": "draining",
        "url": "https://n0.example",
        "draining": True,
        "sessions": 3,
        "waiting": 0,
        "moving": 0,
        "room": 4,
        "load": 0.25,
        "restarts": 0,
        "problem": "",
    }
    assert {(await http.post("/api/sessions", json=OFFER)).headers["location"] for _ in range(3)} == {
        "https://n1.example/api/sessions"
    }
    answer = await http.delete("/api/cluster/n0/drain")
    assert (answer.status_code, answer.json()["state"]) == (200, "ready")


async def test_what_there_is_to_know_of_the_fleet(http: httpx.AsyncClient, site: Site) -> None:
    site.hear("n1", sessions=2, state="restarting")
    shown = (await http.get("/api/cluster")).json()
    assert (shown["preset"], shown["state"]) == ("fake", "ready")
    assert [(node["name"], node["state"], node["sessions"]) for node in shown["nodes"]] == [
        ("n0", "ready", 0),
        ("n1", "restarting", 2),
    ]
    await http.post("/api/sessions", json=OFFER)
    site.fleet.hear(100.0, "n1", told("another life", sessions=2))
    text = (await http.get("/metrics")).text
    for line in (
        'streamgen_fleet_nodes{state="ready"} 2.0',
        'streamgen_fleet_sessions{node="n1"} 2.0',
        'streamgen_fleet_room{node="n0"} 3.0',
        'streamgen_fleet_restarts{node="n1"} 1.0',
        'streamgen_fleet_requests_total{node="n0",way="redirect"} 1.0',
    ):
        assert line in text


async def test_health_page_and_presets(http: httpx.AsyncClient, site: Site) -> None:
    del http.headers["Authorization"]
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    assert (await http.get("/readyz")).json() == {"status": "ready"}
    assert (await http.get("/")).text == "<h1>streamgen</h1>"
    assert (await http.get("/sdk/streamgen.js")).text == "export const x = 1;"
    http.headers.update(BEARER)
    site.answer = lambda request: httpx.Response(200, json={"presets": [{"loaded": True}], "current": "fake"})
    assert (await http.get("/api/presets")).json() == {"presets": [{"loaded": True}], "current": "fake"}
    site.clock.time += 60
    assert (await http.get("/api/presets")).json() == {"presets": [{"name": "fake"}], "current": "fake"}
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "starting"})


async def test_its_routes_are_described_each_once(http: httpx.AsyncClient) -> None:
    described = (await http.get("/openapi.json")).json()["paths"]
    assert set(described["/api/sessions/{session_id}"]) == {"get", "post", "patch", "delete"}
    assert "307" in described["/api/sessions"]["post"]["responses"]
