from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from fastapi import FastAPI

from streamgen.jobs import jobs, upload
from streamgen.scheduler.capacity import Capacity
from streamgen.scheduler.cost import UNKNOWN
from streamgen.web import create_app
from tests.support.clips import make_clip
from tests.support.jobs import Workshop, pieces
from tests.support.processes import until
from tests.test_web import FakeBackend

QUERY = {"prompt": "ink", "width": "128", "height": "64"}

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
async def workshop() -> AsyncIterator[Workshop]:
    made = Workshop(max_jobs=2, max_upload_mb=1)
    yield made
    await made.stop()


@pytest.fixture
def app(workshop: Workshop, tmp_path: Path) -> FastAPI:
    return create_app(FakeBackend(), workshop.metrics, tmp_path, token="secret", jobs=workshop.jobs)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://host", headers={"Authorization": "Bearer secret"}
    ) as client:
        yield client


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    return make_clip(tmp_path / "in.mp4").read_bytes()


async def test_a_job_from_its_file_to_its_result(
    http: httpx.AsyncClient, workshop: Workshop, clip: bytes, tmp_path: Path
) -> None:
    workshop.engine.gate.clear()
    answer = await http.post("/api/jobs", params=QUERY | {"format": "webm", "seed": "7"}, content=pieces(clip))
    assert answer.status_code == 201
    path = answer.headers["location"]
    body = answer.json()
    assert path == f"/api/jobs/{body.pop('id')}"
    assert body.pop("params")["seed"] == 7
    expected = {"state": "running", "position": None, "frames_done": 0, "frames_total": 10, "damaged": 0, "error": None}
    assert body == expected
    early = await http.get(f"{path}/result")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "not_done")

    workshop.engine.gate.set()
    job = workshop.jobs.job(path.rpartition("/")[2])
    await until(lambda: job.over)
    shown = (await http.get(path)).json()
    assert (shown["state"], shown["frames_done"], shown["frames_total"]) == ("done", 10, 10)
    result = await http.get(f"{path}/result")
    assert (result.status_code, result.headers["content-type"]) == (200, "video/webm")
    assert result.headers["cache-control"] == "no-store"
    out = tmp_path / "out.webm"
    out.write_bytes(result.content)
    with av.open(out) as container:
        assert len(list(container.decode(video=0))) == 10

    assert (await http.delete(path)).status_code == 204
    for gone in (await http.get(path), await http.get(f"{path}/result"), await http.delete(path)):
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "no_such_job")
    assert workshop.left == []


async def test_a_failed_job_says_why(http: httpx.AsyncClient, workshop: Workshop, clip: bytes) -> None:
    path = (await http.post("/api/jobs", params=QUERY | {"prompt": "bad"}, content=clip)).headers["location"]
    await until(lambda: workshop.jobs.job(path.rpartition("/")[2]).over)
    shown = (await http.get(path)).json()
    assert shown["state"] == "failed"
    assert "programmed fault" in shown["error"]
    assert (await http.get(f"{path}/result")).status_code == 409


async def test_a_job_that_waits_says_where(http: httpx.AsyncClient, workshop: Workshop, clip: bytes) -> None:
    workshop.loop.begin(Capacity(sessions=1), UNKNOWN, 1)
    workshop.session()
    path = (await http.post("/api/jobs", params=QUERY, content=clip)).headers["location"]
    shown = (await http.get(path)).json()
    assert (shown["state"], shown["position"]) == ("queued", 1)


async def test_what_there_is_room_for(http: httpx.AsyncClient, workshop: Workshop, clip: bytes) -> None:
    workshop.engine.gate.clear()
    shown = {"max_upload_bytes": 1_000_000, "formats": ["mp4", "mkv", "webm"], "free": 2}
    assert (await http.get("/api/jobs")).json() == shown
    await http.post("/api/jobs", params=QUERY, content=clip)
    assert (await http.get("/api/jobs")).json() == shown | {"free": 1}


async def test_beyond_the_bound_is_503_with_retry_after(
    http: httpx.AsyncClient, workshop: Workshop, clip: bytes
) -> None:
    workshop.engine.gate.clear()
    for _ in range(2):
        assert (await http.post("/api/jobs", params=QUERY, content=clip)).status_code == 201
    answer = await http.post("/api/jobs", params=QUERY, content=clip)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
    assert answer.headers["retry-after"] == str(jobs.RETRY_FULL_S)


@pytest.mark.parametrize(
    ("query", "content", "status", "code", "field"),
    [
        ({"prompt": ""}, None, 422, "bad_params", "prompt"),
        ({"steps": "many"}, None, 422, "bad_params", "steps"),
        ({"steps": "9"}, None, 422, "bad_params", "steps"),
        ({"width": "100"}, None, 422, "bad_params", "width"),
        ({"slo_ms": "100"}, None, 422, "bad_params", "slo_ms"),
        ({"nonsense": "1"}, None, 422, "bad_params", "nonsense"),
        ({"format": "../x"}, None, 422, "bad_params", "format"),
        ({}, b"no video", 422, "bad_media", None),
        ({}, b"", 422, "bad_media", None),
        ({}, b"x" * 1_000_001, 413, "too_large", None),
    ],
)
async def test_what_is_wrong_is_said_in_json_and_leaves_nothing(
    http: httpx.AsyncClient,
    workshop: Workshop,
    clip: bytes,
    query: dict[str, str],
    content: bytes | None,
    status: int,
    code: str,
    field: str | None,
) -> None:
    answer = await http.post("/api/jobs", params=QUERY | query, content=clip if content is None else content)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error.get("field")) == (code, field)
    assert "\n" not in error["message"]
    assert str(workshop.folder) not in error["message"]
    assert workshop.left == []
    assert answer.headers.get("connection") == ("close" if status == 413 else None)


async def test_a_body_that_stands_still_is_408(
    http: httpx.AsyncClient, workshop: Workshop, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PATIENCE_S", 0.02)
    monkeypatch.setattr(upload, "LEAST_RATE", 1e9)

    async def stands() -> AsyncIterator[bytes]:
        yield clip[:1000]
        await until(lambda: not workshop.jobs._arriving)

    answer = await http.post("/api/jobs", params=QUERY, content=stands())
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "too_slow")
    assert workshop.left == []


@pytest.mark.parametrize("sent", [1000, None])
async def test_a_client_that_goes_in_the_middle_leaves_nothing(
    app: FastAPI, workshop: Workshop, clip: bytes, sent: int | None
) -> None:
    """In the middle of its file, or while the service looks into it: then the job is nobody's."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": clip[:sent], "more_body": sent is not None}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/api/jobs",
        "raw_path": b"/api/jobs",
        "query_string": str(httpx.QueryParams(QUERY)).encode(),
        "headers": [(b"host", b"host"), (b"authorization", b"Bearer secret")],
    }
    await app(scope, receive, send)
    assert (workshop.left, workshop.jobs._held) == ([], {})


async def test_the_token_guards_jobs_too(http: httpx.AsyncClient, workshop: Workshop, clip: bytes) -> None:
    for headers, status in ({"Authorization": "Bearer wrong"}, 401), ({"Origin": "http://evil.example"}, 403):
        answer = await http.post("/api/jobs", params=QUERY, content=clip, headers=headers)
        assert answer.status_code == status
    assert workshop.left == []


async def test_other_bodies_stay_bounded(http: httpx.AsyncClient, clip: bytes) -> None:
    for path in ("/api/jobs/", "/api/jobs/x", "/api/jobs/x/result", "/api/sessions"):
        assert (await http.post(path, content=b"x" * 200_000)).status_code == 413


async def test_openapi_describes_jobs(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert set(paths["/api/jobs/{job_id}"]) == {"get", "delete"}
    post = paths["/api/jobs"]["post"]
    names = {parameter["name"] for parameter in post["parameters"]}
    assert names == {
        *("prompt", "negative_prompt", "steps", "noise", "seed", "width", "height", "fps", "format"),
    }
    assert post["requestBody"]["content"]["application/octet-stream"]["schema"]["format"] == "binary"
    assert set(post["responses"]) >= {"201", "408", "413", "422", "503"}
    assert "409" in paths["/api/jobs/{job_id}/result"]["get"]["responses"]
    assert "JobReply" in json.dumps(post["responses"]["201"])


async def test_a_service_without_jobs_has_no_routes_for_them(tmp_path: Path, workshop: Workshop, clip: bytes) -> None:
    transport = httpx.ASGITransport(create_app(FakeBackend(), workshop.metrics, tmp_path))
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
        assert (await http.post("/api/jobs", params=QUERY, content=clip)).status_code == 404
