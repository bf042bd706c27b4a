import httpx
import pytest

from streamgen.client import api as module
from streamgen.client.api import NODE_CONNECT_S, NODE_TRIES, Api
from streamgen.client.jobs import JobApi
from streamgen.errors import ConnectError, ServiceError

CREATED = {"id": "s1", "sdp": "v=0", "type": "answer", "state": "connecting", "params": {}, "frame_size": [320, 192]}


def api(answer, token=None, url="http://service.test") -> Api:
    return Api(url, token, 5.0, httpx.MockTransport(answer))


def raising(error: Exception):
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    return answer


async def test_an_offer_is_sent_with_token_and_parameters():
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json=CREATED)

    got = await api(answer, token="secret", url="https://service.test/prefix/").create("v=0 offer", {"steps": 2})
    assert (got.id, got.sdp, got.frame_size) == ("s1", "v=0", (320, 192))
    assert str(seen[0].url) == "https://service.test/prefix/api/sessions"
    assert seen[0].headers["Authorization"] == "Bearer secret"
    assert b'"steps":2' in seen[0].content


@pytest.mark.parametrize(
    ("response", "status", "retry_after", "says"),
    [
        (httpx.Response(401, json={"error": {"code": "unauthorized", "message": "no token"}}), 401, None, "token="),
        (
            httpx.Response(503, json={"error": {"code": "busy", "message": "full"}}, headers={"Retry-After": "7"}),
            *(503, 7.0, "full (retry after 7 s)"),
        ),
        (httpx.Response(502, text="<html>bad gateway"), 502, None, "the service answered 502 Bad Gateway"),
        (httpx.Response(422, json={"detail": []}), 422, None, "422"),
        (httpx.Response(307, headers={"Location": "/x"}), 307, None, "307"),
    ],
)
async def test_refusals_say_what_the_service_said(response, status, retry_after, says):
    with pytest.raises(ServiceError) as caught:
        await api(lambda _: response).create("v=0", {})
    assert (caught.value.status, caught.value.retry_after_s) == (status, retry_after)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (httpx.ConnectTimeout("slow"), "did not answer within 5 s"),
        (httpx.ReadTimeout("slow"), "did not answer within 5 s"),
        (httpx.ConnectError("All connection attempts failed"), "is the service running there?"),
        (httpx.RemoteProtocolError("peer closed"), "peer closed"),
    ],
)
async def test_a_service_that_cannot_be_reached(error, says):
    with pytest.raises(ConnectError, match="service") as caught:
        await api(raising(error)).create("v=0", {})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"id": "1"}),
        httpx.Response(200, json=CREATED | {"frame_size": 3}),
    ],
)
async def test_an_answer_of_something_else(response):
    with pytest.raises(ConnectError, match="does not answer like a streamgen service"):
        await api(lambda _: response).create("v=0", {})


async def test_a_request_goes_on_to_the_machine_that_the_service_names_with_all_it_has():
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, str(request.url), request.headers.get("Authorization"), request.content))
        if request.url.host == "service.test":
            return httpx.Response(307, headers={"Location": f"http://10.0.0.7:4000{request.url.raw_path.decode()}"})
        return httpx.Response(201, json=CREATED)

    made = api(answer, token="secret")
    assert (await made.create("v=0 offer", {"steps": 2})).id == "s1"
    (method, gateway, token, body), node = seen
    assert (method, gateway, token) == ("POST", "http://service.test/api/sessions", "Bearer secret")
    assert node == ("POST", "http://10.0.0.7:4000/api/sessions", "Bearer secret", body)
    await made.resume("n1.abc", "v=0")
    assert [url for _, url, _, _ in seen[2:]] == [
        "http://service.test/api/sessions/n1.abc",
        "http://10.0.0.7:4000/api/sessions/n1.abc",
    ]


async def test_a_request_goes_on_once_and_never_from_https_to_http():
    def round_and_round(request: httpx.Request) -> httpx.Response:
        return httpx.Response(307, headers={"Location": f"{request.url.scheme}://10.0.0.7/api/sessions"})

    with pytest.raises(ServiceError, match="307"):
        await api(round_and_round).create("v=0", {})

    def down(request: httpx.Request) -> httpx.Response:
        assert request.url.scheme == "https"
        return httpx.Response(307, headers={"Location": "http://10.0.0.7/api/sessions"})

    with pytest.raises(ConnectError, match=r"leads to 10\.0\.0\.7 by http"):
        await api(down, url="https://service.test").create("v=0", {})


async def test_a_machine_that_is_gone_is_as_good_as_no_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "RETRY_NODE_S", 0.01)
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "service.test" and len(asked) > 8:
            return httpx.Response(201, json=CREATED)
        if request.url.host == "service.test":
            return httpx.Response(307, headers={"Location": "http://10.0.0.7/api/sessions"})
        assert request.extensions["timeout"]["connect"] == NODE_CONNECT_S
        raise httpx.ConnectTimeout("")

    with pytest.raises(ServiceError, match=r"10\.0\.0\.7, cannot be reached: ConnectTimeout") as caught:
        await api(answer).create("v=0", {})
    assert (caught.value.status, caught.value.retry_after_s, caught.value.reason) == (503, 0.01, "node_gone")
    assert asked == ["service.test", "10.0.0.7"] * NODE_TRIES
    with pytest.raises(ServiceError):
        await api(answer).resume("n1.abc", "v=0")  # is up to whoever wants to come back
    assert len(asked) == 8
    assert (await api(answer).create("v=0", {})).id == "s1"


async def test_a_file_goes_to_the_machine_that_told_of_its_room(tmp_path):
    seen = []
    state = {"id": "j", "state": "done", "position": None, "frames_done": 1, "frames_total": 1, "damaged": 0}

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.host, request.url.path))
        if request.url.host == "service.test":
            return httpx.Response(307, headers={"Location": f"http://10.0.0.7{request.url.path}"})
        if (request.method, request.url.path) == ("GET", "/api/jobs"):
            return httpx.Response(200, json={"max_upload_bytes": 100, "free": 1})
        if request.url.path.endswith("/result"):
            return httpx.Response(200, stream=httpx.ByteStream(b"painted"))
        return httpx.Response(200, json=state | {"error": None, "params": {}})

    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"clip")
    jobs = JobApi("http://service.test", None, 5.0, httpx.MockTransport(answer))
    await jobs.room()
    job = await jobs.submit(clip, {"prompt": "ink"}, "mp4")
    await jobs.job(job.id)
    await jobs.fetch(job.id, tmp_path / "out.mp4")
    await jobs.forget(job.id)
    assert seen == [
        ("GET", "service.test", "/api/jobs"),
        ("GET", "10.0.0.7", "/api/jobs"),
        ("POST", "10.0.0.7", "/api/jobs"),
        ("GET", "10.0.0.7", "/api/jobs/j"),
        ("GET", "10.0.0.7", "/api/jobs/j/result"),
        ("DELETE", "10.0.0.7", "/api/jobs/j"),
    ]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", "http://", "ws://x", "http://[::1"])
def test_what_is_no_address_is_refused_at_once(url):
    with pytest.raises(ConnectError):
        Api(url, None, 5.0)


async def test_a_proxy_of_the_environment_is_not_asked_for_loopback(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    with pytest.raises(ConnectError, match="connection refused"):
        await Api("http://127.0.0.1:9", None, 5.0).delete("s1")
