"""WHIP and WHEP to the letter, over HTTP, against a whole service. See RFC 9725 and draft-ietf-wish-whep."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from streamgen.ice import IceDescription, IceSettings, PeerConnection
from streamgen.rtc.connection import Connection
from streamgen.rtc.offer import MAX_CANDIDATES
from streamgen.turn import IceServers
from streamgen.web import create_app
from tests.support.stage import Stage
from tests.support.webrtc import Client, client, no_leaks, until

SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
SMALL = "width=64&height=64"
ORIGIN = "https://player.example"


class Site:
    """A service with its HTTP routes."""

    def __init__(self, stage: Stage, token: str | None) -> None:
        self.stage = stage
        app = create_app(stage.service, stage.metrics, Path(), token=token, allowed_origins=(ORIGIN,))
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://host")

    async def publish(self, peer: Client, query: str = SMALL) -> httpx.Response:
        """POSTs the peer's offer; accepts the answer."""
        offer = (await peer.offer()).replace("a=sendrecv", "a=sendonly")
        answer = await self.http.post(f"/whip?{query}", content=offer, headers=SDP)
        if answer.status_code == 201:
            await peer.accept(answer.text)
        return answer

    async def watch(self, peer: Client, stream: str) -> httpx.Response:
        offer = (await peer.offer()).replace("a=sendrecv", "a=recvonly")
        answer = await self.http.post(f"/whep/{stream}", content=offer, headers=SDP)
        if answer.status_code == 201:
            await peer.accept(answer.text)
        return answer


@pytest.fixture
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """Mark `settings` has the service's settings."""
    mark = request.node.get_closest_marker("settings")
    settings = dict(mark.kwargs) if mark else {}
    made = Site(Stage(**settings), settings.get("token"))
    yield made
    await made.http.aclose()
    await made.stage.stop()


settings = pytest.mark.settings


# -- WHIP: publishing ----------------------------------------------------------------------------------------------


async def test_a_stream_from_post_to_delete(site: Site) -> None:
    async with no_leaks(), client() as peer:
        answer = await site.publish(peer)
        assert answer.status_code == 201
        assert answer.headers["content-type"] == "application/sdp"
        assert re.fullmatch(r"/whip/[A-Za-z0-9_-]{20,}", answer.headers["location"])  # no query: OBS deletes by it
        assert re.fullmatch(r'"[^"]+"', answer.headers["etag"])
        assert answer.headers["accept-patch"] == FRAGMENT["Content-Type"]
        assert answer.text.startswith("v=0")
        session = site.stage.service.session(answer.headers["location"].removeprefix("/whip/"))
        await until(lambda: session.state == "live")
        assert (await site.http.delete(answer.headers["location"])).status_code == 200
        assert session.state == "closed"
        assert (await site.http.delete(answer.headers["location"])).status_code == 404


async def test_parameters_ride_in_the_query_and_others_are_passed_over(site: Site) -> None:
    async with client() as peer:
        answer = await site.publish(peer, f"{SMALL}&prompt=an+oil+painting&steps=1&stamp=true&anything=else")
        params = site.stage.service.session(answer.headers["location"].removeprefix("/whip/")).params
        assert (params.prompt, params.steps, params.stamp, params.width) == ("an oil painting", 1, True, 64)


@pytest.mark.parametrize(
    "query", ["steps=9", "steps=x", "noise=nan", "stamp=yes", "width=65", "name=a/b", f"name={'x' * 21}"]
)
async def test_parameters_that_cannot_be_are_named(site: Site, query: str) -> None:
    async with client() as peer:
        answer = await site.publish(peer, query)
        assert answer.status_code == 422
        assert answer.json()["error"]["field"] == query.partition("=")[0]


@pytest.mark.parametrize("path", ["/whip", "/whep/anything"])
async def test_what_is_no_offer_is_refused(site: Site, path: str) -> None:
    for body in (b"", b"hello", b"v=0\r\n", b"\xff\xfe"):
        answer = await site.http.post(path, content=body, headers=SDP)
        assert answer.status_code in ((400,) if path == "/whip" else (400, 409)), body
        assert answer.json()["error"]["message"]
    for kind in ({}, {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}):
        answer = await site.http.post(path, content=b"v=0", headers=kind)
        assert answer.status_code == 415
        assert answer.headers["accept-post"] == "application/sdp"


@settings(max_sessions=1)
async def test_overload_says_when_to_come_back(site: Site) -> None:
    async with client() as one, client() as two:
        assert (await site.publish(one)).status_code == 201
        refused = await site.publish(two)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0


async def test_redirects_keep_the_method(site: Site) -> None:
    answer = await site.http.post("/whip/", content=b"v=0", headers=SDP)
    assert answer.status_code in (307, 405)


async def test_other_methods_are_not_allowed(site: Site) -> None:
    async with client() as peer:
        place = (await site.publish(peer)).headers["location"]
        for method, path in (
            ("GET", "/whip"),
            ("PUT", "/whip"),
            ("GET", place),
            ("POST", place),
            ("PUT", place),
            ("GET", "/whep/x"),
            ("PUT", "/whep/x"),
        ):
            answer = await site.http.request(method, path)
            assert answer.status_code == 405, (method, path)
            assert answer.headers["allow"]


async def test_an_offer_without_candidates_and_without_trickle_connects(site: Site) -> None:
    """As OBS makes them: the service learns the address from the checks that come in."""
    async with client() as peer:
        offer = re.sub(r"a=(candidate|end-of-candidates).*\r\n", "", await peer.offer())
        answer = await site.http.post(f"/whip?{SMALL}", content=offer, headers=SDP)
        await peer.accept(answer.text)
        session = site.stage.service.session(answer.headers["location"].removeprefix("/whip/"))
        await until(lambda: session.state == "live")


# -- ICE servers -------------------------------------------------------------------------------------------------------


async def test_ice_servers_come_as_links_and_not_on_preflights(site: Site) -> None:
    async with client() as peer:
        assert "link" not in (await site.publish(peer)).headers
    # Those that clients are told of; our own side has nobody to ask here.
    site.stage.service._connection = lambda: Connection([], IceSettings(), 5.0)  # type: ignore[method-assign]
    site.stage.service._ice = IceServers(("stun:s.example:3478", "turn:t.example"), "shared")
    async with client() as peer:
        stun, turn = (await site.publish(peer)).headers.get_list("link")
        assert stun == '<stun:s.example:3478>; rel="ice-server"'
        credentials = r'; username="\d+:\w+"; credential="[^"]+"; credential-type="password"'
        assert re.fullmatch(r'<turn:t\.example>; rel="ice-server"' + credentials, turn)
        assert "link" not in (await site.http.options("/whip", headers={"Origin": ORIGIN})).headers


# -- PATCH: trickle and restart ----------------------------------------------------------------------------------------


async def test_candidates_may_come_later(site: Site) -> None:
    async with client() as peer:
        whole = await peer.offer()
        candidates = re.findall(r"a=candidate:.*\r\n", whole)
        bare = re.sub(r"a=(candidate|end-of-candidates).*\r\n", "", whole)
        answer = await site.http.post(f"/whip?{SMALL}", content=bare, headers=SDP)
        place, tag = answer.headers["location"], answer.headers["etag"]
        user = re.findall(r"a=ice-ufrag:(\S+)", whole)[0]
        fragment = f"a=ice-ufrag:{user}\r\nm=video 9 RTP/AVP 0\r\na=mid:0\r\n{''.join(candidates)}"
        trickled = await site.http.patch(place, content=fragment, headers=FRAGMENT | {"If-Match": tag})
        assert (trickled.status_code, trickled.content) == (204, b"")
        ended = await site.http.patch(place, content="a=end-of-candidates\r\n", headers=FRAGMENT | {"If-Match": "*"})
        assert ended.status_code == 204
        await peer.accept(answer.text)
        session = site.stage.service.session(place.removeprefix("/whip/"))
        await until(lambda: session.state == "live")


async def test_a_patch_needs_the_right_tag_type_and_text(site: Site) -> None:
    async with client() as peer:
        answer = await site.publish(peer)
        place, tag = answer.headers["location"], answer.headers["etag"]
        line = "a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n"
        for headers, body, status in (
            (FRAGMENT, line, 428),
            (FRAGMENT | {"If-Match": '"other"'}, line, 412),
            (SDP | {"If-Match": tag}, line, 415),
            (FRAGMENT | {"If-Match": tag}, "hello", 400),
            (FRAGMENT | {"If-Match": tag}, "a=candidate:1 1 udp", 400),
            (FRAGMENT | {"If-Match": tag}, "a=ice-ufrag:x\r\na=ice-pwd:short", 400),
            (FRAGMENT | {"If-Match": tag}, line * (MAX_CANDIDATES + 1), 400),
            (FRAGMENT | {"If-Match": f'"other", {tag}'}, "a=end-of-candidates", 204),
        ):
            response = await site.http.patch(place, content=body, headers=headers)
            assert response.status_code == status, (headers, body[:50], response.text)
        wrong_type = await site.http.patch(place, content="x", headers=SDP | {"If-Match": tag})
        assert wrong_type.headers["accept-patch"] == FRAGMENT["Content-Type"]
        lost = await site.http.patch("/whip/nobody", content=line, headers=FRAGMENT | {"If-Match": "*"})
        assert lost.status_code == 404


async def test_candidates_are_bounded_over_all_patches(site: Site) -> None:
    async with client() as peer:
        place = (await site.publish(peer)).headers["location"]
        statuses = []
        for number in range(MAX_CANDIDATES + 2):
            line = f"a=candidate:{number} 1 udp 2130706431 192.0.2.1 {5000 + number} typ host\r\n"
            answer = await site.http.patch(place, content=line, headers=FRAGMENT | {"If-Match": "*"})
            statuses.append(answer.status_code)
        assert statuses == [204] * MAX_CANDIDATES + [400] * 2


async def test_ice_restarts_while_media_go_on(site: Site) -> None:
    async with client(restarts=True) as peer:
        assert isinstance(peer.connection, PeerConnection)
        answer = await site.publish(peer)
        place, tag = answer.headers["location"], answer.headers["etag"]
        session = site.stage.service.session(place.removeprefix("/whip/"))
        await until(lambda: session.state == "live")
        connection = site.stage.service._place(session.id).connection
        before = connection.rtc.getTransceivers()[0].receiver.transport.transport.iceGatherer.getLocalParameters()
        ours = await peer.connection.prepare_restart()
        candidates = "".join(f"a={line}\r\n" for line in ours.candidates)
        fragment = f"a=ice-ufrag:{ours.ufrag}\r\na=ice-pwd:{ours.pwd}\r\nm=video 9 RTP/AVP 0\r\na=mid:0\r\n{candidates}"
        restarted = await site.http.patch(place, content=fragment, headers=FRAGMENT | {"If-Match": "*"})
        assert restarted.status_code == 200
        assert restarted.headers["content-type"] == FRAGMENT["Content-Type"]
        assert restarted.headers["etag"] not in (tag, "")
        theirs = {name: re.findall(rf"a={name}:(\S+)", restarted.text)[0] for name in ("ice-ufrag", "ice-pwd")}
        assert theirs["ice-ufrag"] != before.usernameFragment
        lines = tuple(re.findall(r"a=(candidate:.*)\r\n", restarted.text))
        assert lines
        await peer.connection.begin_restart(IceDescription(theirs["ice-ufrag"], theirs["ice-pwd"], lines))
        await peer.connection.restarted()
        await connection.rtc.restarted()
        seen = session.stats().frames_in
        await until(lambda: session.stats().frames_in > seen + 10)
        assert session.state == "live"
        stale = await site.http.patch(place, content="a=end-of-candidates", headers=FRAGMENT | {"If-Match": tag})
        assert stale.status_code == 412


async def test_a_restart_that_cannot_be_changes_nothing(site: Site) -> None:
    async with client() as peer:
        answer = await site.publish(peer)
        place = answer.headers["location"]
        session = site.stage.service.session(place.removeprefix("/whip/"))
        restart = FRAGMENT | {"If-Match": "*"}
        half = await site.http.patch(place, content="a=ice-ufrag:other", headers=restart)
        assert half.status_code == 400
        credentials = f"a=ice-ufrag:other\r\na=ice-pwd:{'x' * 24}\r\n"
        async with client() as slow:  # its connection is not up
            waiting = await site.http.post(f"/whip?{SMALL}", content=await slow.offer(), headers=SDP)
            place = waiting.headers["location"]
            refused = await site.http.patch(place, content=credentials, headers=restart)
            assert refused.status_code == 422
            same = FRAGMENT | {"If-Match": waiting.headers["etag"]}
            assert (await site.http.patch(place, content="a=end-of-candidates", headers=same)).status_code == 204
        await until(lambda: session.state == "live")


# -- who may -----------------------------------------------------------------------------------------------------------


@settings(token="secret")
async def test_the_token_is_asked_for_but_never_on_preflights(site: Site) -> None:
    bearer = {"Authorization": "Bearer secret"}
    async with client() as peer:
        offer = await peer.offer()
        refused = await site.http.post(f"/whip?{SMALL}", content=offer, headers=SDP)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        answer = await site.http.post(f"/whip?{SMALL}", content=offer, headers=SDP | bearer)
        assert answer.status_code == 201
        place = answer.headers["location"]
        assert (await site.http.patch(place, content="", headers=FRAGMENT)).status_code == 401
        assert (await site.http.delete(place)).status_code == 401
        assert (await site.http.post("/whep/name", content=offer, headers=SDP)).status_code == 401
        for path in ("/whip", place, "/whep/name"):
            assert (await site.http.options(path, headers={"Origin": ORIGIN})).status_code == 200
        assert (await site.http.delete(place, headers=bearer)).status_code == 200


async def test_preflights_say_what_may_be_sent_and_read(site: Site) -> None:
    async with client() as peer:
        place = (await site.publish(peer)).headers["location"]
    for path in ("/whip", place, "/whep/x"):
        answer = await site.http.options(path, headers={"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"})
        assert answer.status_code == 200
        assert answer.headers["accept-post"] == "application/sdp"
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert {"POST", "PATCH", "DELETE", "OPTIONS"} <= set(answer.headers["access-control-allow-methods"].split(", "))
        allowed = answer.headers["access-control-allow-headers"]
        assert all(name in allowed for name in ("Authorization", "Content-Type", "If-Match"))
        exposed = answer.headers["access-control-expose-headers"]
        assert all(name in exposed for name in ("Location", "Link", "ETag", "Accept-Patch", "Retry-After"))


# -- names -------------------------------------------------------------------------------------------------------------


async def test_a_name_is_taken_while_its_stream_lives_and_taken_up_again_after_a_loss(site: Site) -> None:
    async with client() as one, client() as two, client() as back:
        first = await site.publish(one, f"{SMALL}&name=studio&prompt=ink")
        session_id = first.headers["location"].removeprefix("/whip/")
        session = site.stage.service.session(session_id)
        await until(lambda: session.state == "live")
        taken = await site.publish(two, f"{SMALL}&name=studio")
        assert taken.status_code == 409
        assert taken.json()["error"]["code"] == "name_taken"
        assert int(taken.headers["retry-after"]) > 0
        site.stage.lose(session_id)
        await until(lambda: session.state == "away")
        again = await site.publish(back, f"{SMALL}&name=studio&prompt=oil")
        assert again.status_code == 201
        assert again.headers["location"] == first.headers["location"]
        assert session.params.prompt == "oil"
        await until(lambda: session.state == "live")
        await site.stage.service.close(session_id, "enough")
        assert (await site.http.post("/whep/studio", content=b"x", headers=SDP)).status_code == 409


# -- WHEP: watching ----------------------------------------------------------------------------------------------------


async def test_several_watch_one_stream_and_leave_when_they_like(site: Site) -> None:
    async with no_leaks(), client() as publisher, client() as one, client() as two:
        published = await site.publish(publisher, f"{SMALL}&name=studio")
        session_id = published.headers["location"].removeprefix("/whip/")
        session = site.stage.service.session(session_id)
        await until(lambda: site.stage.service._place(session_id)._broadcast.shown)
        link = site.stage.service.audience(session_id).stream
        places = [(await site.watch(one, "studio")), (await site.watch(two, link))]
        for place in places:
            assert place.status_code == 201
            assert place.headers["content-type"] == "application/sdp"
            assert place.headers["location"].startswith("/whep/")
            assert place.headers["etag"]
        await until(lambda: len(one.frames) > 5 and len(two.frames) > 5)
        assert site.stage.service.audience(session_id).viewers == 2
        leaving = [(await site.http.delete(places[0].headers["location"])).status_code for _ in range(2)]
        assert leaving == [200, 404]
        assert site.stage.service.audience(session_id).viewers == 1
        seen = len(two.frames)
        await until(lambda: len(two.frames) > seen + 5)
        assert session.state == "live"
        await two.close()
        await until(lambda: site.stage.service.audience(session_id).viewers == 0)
        assert session.state == "live"


async def test_a_stream_that_is_not_live_says_when_to_come_back(site: Site) -> None:
    async with client() as publisher, client() as viewer:
        early = await site.watch(viewer, "studio")
        assert early.status_code == 409
        assert early.json()["error"]["code"] == "not_live"
        assert int(early.headers["retry-after"]) > 0
        offer = (await publisher.offer()).replace("a=sendrecv", "a=sendonly")
        await site.http.post(f"/whip?{SMALL}&name=studio", content=offer, headers=SDP)  # and nothing is sent
        waiting = await site.http.post("/whep/studio", content=await viewer.offer(), headers=SDP)
        assert waiting.status_code == 409
    gone = await site.http.post("/whep/AAAAAAAAAAAAAAAAAAAAAA", content=b"v=0", headers=SDP)
    assert gone.status_code == 404


@settings(max_viewers=1, token="secret")
async def test_a_link_needs_no_token_and_viewers_are_bounded(site: Site) -> None:
    bearer = {"Authorization": "Bearer secret"}
    async with client() as publisher, client() as one, client() as two:
        session_id = await site.stage.open(publisher)
        await until(lambda: publisher.frames)
        shown = (await site.http.get(f"/api/sessions/{session_id}", headers=bearer)).json()
        link = shown["watch"].removeprefix("/watch/")
        assert (await site.watch(one, "x" * 22)).status_code == 401
        place = await site.http.post(f"/whep/{link}", content=await two.offer(), headers=SDP)
        assert place.status_code == 201
        await two.accept(place.text)
        await until(lambda: two.frames)
        full = await site.http.post(f"/whep/{link}", content=await one.offer(), headers=SDP)
        assert (full.status_code, full.json()["error"]["code"]) == (503, "busy")
        assert (await site.http.delete(place.headers["location"])).status_code == 200
        assert (await site.http.delete(f"/whip/{link}", headers=bearer)).status_code == 404  # who watches cannot end it


async def test_viewers_leave_with_the_stream(site: Site) -> None:
    async with no_leaks(), client() as publisher, client() as viewer:
        session_id = await site.stage.open(publisher)
        await until(lambda: publisher.frames)
        assert (await site.watch(viewer, session_id)).status_code == 201
        await until(lambda: viewer.frames)
        await site.stage.service.close(session_id, "enough")
        await until(lambda: viewer.connection.connectionState == "closed")


async def test_an_offer_that_takes_nothing_cannot_watch(site: Site) -> None:
    async with client() as publisher, client() as viewer:
        session_id = await site.stage.open(publisher)
        await until(lambda: publisher.frames)
        offer = (await viewer.offer()).replace("a=sendrecv", "a=sendonly")
        answer = await site.http.post(f"/whep/{session_id}", content=offer, headers=SDP)
        assert answer.status_code == 400
        assert "takes video" in answer.json()["error"]["message"]
