import httpx
import pytest

from streamgen.client.api import Api
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


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", "http://", "ws://x", "http://[::1"])
def test_what_is_no_address_is_refused_at_once(url):
    with pytest.raises(ConnectError):
        Api(url, None, 5.0)


async def test_a_proxy_of_the_environment_is_not_asked_for_loopback(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    with pytest.raises(ConnectError, match="connection refused"):
        await Api("http://127.0.0.1:9", None, 5.0).delete("s1")
