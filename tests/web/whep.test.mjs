import assert from "node:assert/strict";
import { test } from "node:test";

import { iceServersOf, WhepViewer } from "../../web/whep.js";
import { FakeStream, makeWorld, settle } from "./fakes.mjs";

/** A service that answers POSTs from `answers`, with a new place where there are none left. */
function makeService() {
  const world = makeWorld();
  const service = { world, requests: [], answers: [], states: [] };
  const fetch = async (url, { method, headers, body, keepalive }) => {
    service.requests.push({ method, path: url.pathname, headers, body, keepalive });
    if (method === "DELETE") return new Response(null, { status: 200 });
    const answer = service.answers.shift();
    if (answer instanceof Error) throw answer;
    const [status, text, extra] = answer ?? [201, "answer", { Location: `/whep/v${service.made("POST").length}` }];
    return new Response(text, { status, headers: extra });
  };
  service.made = (method) => service.requests.filter((request) => request.method === method);
  service.viewer = (more = {}) => {
    const viewer = new WhepViewer({
      url: new URL("http://host/whep/studio"), fetch, RTCPeerConnection: world.RTCPeerConnection, MediaStream: FakeStream,
      timers: world.timers, ...more,
    });
    viewer.addEventListener("state", ({ detail }) => service.states.push(detail.state));
    return viewer;
  };
  return service;
}

const notLive = [409, JSON.stringify({ error: { code: "not_live", message: "nothing yet" } }), { "Retry-After": "3" }];

test("it takes video and sound by one POST, and shows them", async () => {
  const service = makeService();
  const viewer = service.viewer();
  await viewer.watch();
  const [{ path, headers, body }] = service.requests;
  assert.deepEqual([path, headers["Content-Type"], body], ["/whep/studio", "application/sdp", "offer 0 with candidates"]);
  assert.deepEqual(service.world.peers[0].directions, [["video", "recvonly"], ["audio", "recvonly"]]);
  assert.equal(viewer.state, "live");
  assert.equal(viewer.stream.getTracks().length, 1);
  assert.deepEqual(service.states, ["connecting", "live"]);
});

test("a stream that is not live is asked for again when the service says", async () => {
  const service = makeService();
  service.answers.push(notLive, notLive);
  const viewer = service.viewer();
  await viewer.watch();
  assert.equal(viewer.state, "waiting");
  assert.ok(service.world.peers[0].closed);
  await service.world.timers.pass(2900);
  assert.equal(service.made("POST").length, 1);
  await service.world.timers.pass(3200);
  await settle();
  assert.equal(viewer.state, "live");
  assert.equal(service.made("POST").length, 3);
  assert.deepEqual(service.made("DELETE"), []); // nothing was given
});

test("a lost connection gives its place back and comes again, into the same stream", async () => {
  const service = makeService();
  const viewer = service.viewer();
  await viewer.watch();
  const { stream } = viewer;
  service.world.peers[0].become("failed");
  assert.equal(viewer.state, "connecting");
  assert.deepEqual(service.made("DELETE").map(({ path }) => path), ["/whep/v1"]);
  await service.world.timers.pass(500);
  await settle();
  assert.equal(viewer.state, "live");
  assert.equal(viewer.stream, stream);
  assert.deepEqual(stream.getTracks().map(({ id }) => id), ["result 1"]);
});

test("a short disconnection is waited out", async () => {
  const service = makeService();
  const viewer = service.viewer();
  await viewer.watch();
  service.world.peers[0].become("disconnected");
  await service.world.timers.pass(2400);
  service.world.peers[0].become("connected");
  await service.world.timers.pass(10000);
  assert.equal(service.made("POST").length, 1);
});

test("the service's goodbye is heard at once, with nothing left to give back", async () => {
  const service = makeService();
  const viewer = service.viewer();
  await viewer.watch();
  service.answers.push(notLive);
  service.world.peers[0].become("disconnected");
  service.world.peers[0].hearGoodbye();
  assert.equal(viewer.state, "connecting");
  await service.world.timers.pass(500);
  await settle();
  assert.equal(viewer.state, "waiting");
  assert.deepEqual(service.made("DELETE"), []);
  assert.equal(service.made("POST").length, 2);
  await service.world.timers.pass(2900);
  assert.equal(service.made("POST").length, 2); // The short wait of the disconnection is off.
});

test("a proxy without its service is no end of the stream", async () => {
  const service = makeService();
  service.answers.push([502, "<html>", {}]);
  const viewer = service.viewer();
  await viewer.watch();
  assert.equal(viewer.state, "connecting");
  await service.world.timers.pass(500);
  await settle();
  assert.equal(viewer.state, "live");
});

test("where the service is away it tries again, ever more slowly", async () => {
  const service = makeService();
  service.answers.push(...Array(4).fill(new TypeError("down")));
  const viewer = service.viewer();
  await viewer.watch();
  await service.world.timers.pass(500 + 1000 + 2000 + 3900);
  assert.equal(service.made("POST").length, 4);
  await service.world.timers.pass(100);
  await settle();
  assert.equal(viewer.state, "live");
});

test("a stream that has ended is not asked for again", async () => {
  const service = makeService();
  service.answers.push([404, JSON.stringify({ error: { code: "no_such_session", message: "ended" } }), {}]);
  const viewer = service.viewer();
  await viewer.watch();
  await service.world.timers.pass(60000);
  assert.equal(viewer.state, "ended");
  assert.equal(service.made("POST").length, 1);
});

test("media that do not come through are no success", async () => {
  const service = makeService();
  service.world.connects = false;
  const viewer = service.viewer();
  const watching = viewer.watch();
  await service.world.timers.pass(10000);
  await watching;
  assert.equal(viewer.state, "connecting");
  assert.deepEqual(service.made("DELETE").map(({ path }) => path), ["/whep/v1"]);
});

test("closing tells the service, survives the page, and opens nothing more", async () => {
  const service = makeService();
  const viewer = service.viewer({ token: "secret" });
  await viewer.watch();
  viewer.close();
  assert.deepEqual(service.made("DELETE").map(({ keepalive }) => keepalive), [true]);
  assert.ok(service.requests.every(({ headers }) => headers.Authorization === "Bearer secret"));
  service.world.peers[0].become("failed");
  await service.world.timers.pass(60000);
  await viewer.watch();
  assert.equal(service.made("POST").length, 1);
  assert.equal(viewer.state, "closed");
});

test("servers that the service names are used for the next attempt", async () => {
  const link = '<stun:s.example>; rel="ice-server", <turn:t.example?transport=tcp>; rel="ice-server"; username="1:a"; credential="b="; credential-type="password"';
  assert.deepEqual(iceServersOf(link), [
    { urls: "stun:s.example", username: undefined, credential: undefined },
    { urls: "turn:t.example?transport=tcp", username: "1:a", credential: "b=" },
  ]);
  assert.deepEqual(iceServersOf(""), []);
  const service = makeService();
  service.answers.push([201, "answer", { Location: "/whep/v1", Link: link }]);
  const viewer = service.viewer();
  await viewer.watch();
  assert.deepEqual(service.world.peers[0].configuration, { iceServers: [] });
  service.world.peers[0].become("failed");
  await service.world.timers.pass(500);
  await settle();
  assert.equal(service.world.peers[1].configuration.iceServers[1].credential, "b=");
});
