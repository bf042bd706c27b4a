import assert from "node:assert/strict";
import { test } from "node:test";

import { BusyError, ClosedError, ConnectError, ParamsError, ServiceError, StreamgenClient, UnauthorizedError }
  from "../../web/streamgen.js";
import { camera, makeWorld, settle } from "./fakes.mjs";

const busy = [503, { error: { code: "busy", message: "full" } }, { "Retry-After": "7" }];

async function opened(world = makeWorld(), params = { prompt: "neon" }) {
  const client = new StreamgenClient(world.options());
  const session = await client.open(camera(), params);
  const events = [];
  for (const type of ["state", "stats", "applied", "rejected", "restarted", "moved", "queue", "quality", "closing", "error", "track"]) {
    session.on(type, (detail) => events.push([type, detail]));
  }
  const states = () => events.filter(([type]) => type === "state").map(([, { state }]) => state);
  return { world, client, session, events, states };
}

test("open offers one video and a control channel, with all candidates and the parameters", async () => {
  const { world, session } = await opened();
  const [peer] = world.peers;
  const [{ path, body }] = world.made("POST");
  assert.equal(path, "/base/api/sessions");
  assert.deepEqual(body, { sdp: "offer 0 with candidates", type: "offer", params: { prompt: "neon" } });
  assert.equal(peer.channel.label, "control");
  assert.equal(peer.transceiver.init.direction, "sendrecv");
  assert.deepEqual(peer.remoteDescription, { type: "answer", sdp: "answer" });
  assert.equal(session.id, "s1");
  assert.equal(session.state, "warming");
  assert.deepEqual(session.params, { fps: 16, slo_ms: 1000, prompt: "neon" });
  assert.deepEqual(session.stream.getTracks().map(({ id }) => id), ["result 0"]);
});

test("open waits at most 1.5 s for candidates", async () => {
  const world = makeWorld();
  world.gathers = false;
  const opening = new StreamgenClient(world.options()).open(camera());
  await world.timers.pass(1499);
  assert.equal(world.made("POST").length, 0);
  await world.timers.pass(1);
  await opening;
  assert.equal(world.made("POST")[0].body.sdp, "offer 0");
});

test("a media connection that does not come up is a ConnectError, and the session is given back", async () => {
  const world = makeWorld();
  world.connects = false;
  const opening = assert.rejects(new StreamgenClient(world.options()).open(camera()), (error) => {
    return error instanceof ConnectError && error.code === "no_media";
  });
  await world.timers.pass(15000);
  await opening;
  assert.equal(world.made("DELETE")[0].path, "/base/api/sessions/s1");
  assert.ok(world.peers[0].closed);
});

test("errors of the service become typed errors", async () => {
  for (const [answer, type, check] of [
    [busy, BusyError, { code: "busy", message: "full", status: 503, retryAfterS: 7 }],
    [[401, { error: { code: "unauthorized", message: "token?" } }], UnauthorizedError, { status: 401 }],
    [[422, { error: { code: "bad_params", message: "noise: is 3", field: "noise" } }], ParamsError, { field: "noise" }],
    [[500, "no object"], ServiceError, { code: "service_error", message: "the service answered with HTTP 500" }],
    [new TypeError("fetch failed"), ConnectError, { code: "connect_failed" }],
  ]) {
    const world = makeWorld();
    world.answers.push(answer);
    await assert.rejects(new StreamgenClient(world.options()).open(camera()), (error) => {
      assert.ok(error instanceof type, `${error.name} is no ${type.name}`);
      for (const [name, value] of Object.entries(check)) assert.equal(error[name], value);
      return true;
    });
    assert.ok(world.peers[0].closed);
  }
});

test("a source without video is refused before anything is sent", async () => {
  const world = makeWorld();
  const silent = camera();
  silent.tracks = [];
  await assert.rejects(new StreamgenClient(world.options()).open(silent), { code: "no_video" });
  assert.equal(world.requests.length, 0);
});

test("open can be aborted while it waits for media", async () => {
  const world = makeWorld();
  world.connects = false;
  const abort = new AbortController();
  const opening = assert.rejects(new StreamgenClient(world.options()).open(camera(), {}, { signal: abort.signal }),
    { name: "AbortError" });
  await settle();
  abort.abort();
  await opening;
  assert.equal(world.made("DELETE").length, 1);
  assert.deepEqual(world.timers.due, []);
});

test("the token goes with every request", async () => {
  const world = makeWorld();
  await new StreamgenClient(world.options({ token: "secret" })).presets();
  assert.equal(world.requests[0].headers.Authorization, "Bearer secret");
  assert.equal(world.requests[0].path, "/base/api/presets");
});

test("readiness tells what the engine does", async () => {
  const world = makeWorld();
  const client = new StreamgenClient(world.options());
  world.usual = () => [503, { status: "starting" }];
  assert.deepEqual(await client.readiness(), { ready: false, status: "starting" });
  world.usual = () => [200, { status: "ready" }];
  assert.deepEqual(await client.readiness(), { ready: true, status: "ready" });
});

test("update resolves with the frame, and becomes part of the parameters only then", async () => {
  const { world, session, events } = await opened();
  const { channel } = world.peers[0];
  const update = session.update({ prompt: "pencil" });
  assert.deepEqual(channel.sent, [{ type: "update", seq: 1, params: { prompt: "pencil" } }]);
  assert.equal(session.params.prompt, "neon");
  channel.hear({ type: "applied", seq: 1, frame: 99 });
  assert.deepEqual(await update, { frame: 99 });
  assert.equal(session.params.prompt, "pencil");
  assert.deepEqual(events, [["applied", { seq: 1, frame: 99 }]]);
});

test("a refused update rejects and changes nothing", async () => {
  const { world, session } = await opened();
  const update = session.update({ noise: 3 });
  world.peers[0].channel.hear({ type: "rejected", seq: 1, error: { code: "bad_params", message: "noise: is 3", field: "noise" } });
  await assert.rejects(update, (error) => error instanceof ParamsError && error.field === "noise");
  assert.equal(session.params.noise, undefined);
});

test("messages of the service become events; what is not understood is passed over", async () => {
  const { world, session, events } = await opened();
  const { channel } = world.peers[0];
  const stats = { type: "stats", fps_out: 15 };
  for (const message of [{ type: "state", state: "live" }, stats, { type: "queue", position: 2 },
    { type: "restarted", reason: "killed" }, { type: "from the future" }, "not json", "null", { type: "applied", seq: 77 }]) {
    channel.hear(message);
  }
  assert.deepEqual(events, [["state", { state: "live" }], ["stats", stats], ["queue", { position: 2, estimateS: null }],
    ["restarted", { reason: "killed" }]]);
  assert.equal(session.state, "live");
  assert.equal(session.stats.fps_out, 15);
});

test("a session that waits for room tells its place until it is admitted, for as long as that takes", async () => {
  const world = makeWorld();
  world.state = "queued";
  const { session, events, states } = await opened(world);
  assert.equal(session.state, "queued");
  const { channel } = world.peers[0];
  channel.hear({ type: "queue", position: 2, estimate_s: 40 });
  assert.deepEqual([session.queuePosition, session.queue], [2, { position: 2, estimateS: 40 }]);
  await world.timers.pass(3_600_000);
  channel.hear({ type: "queue", position: 1, estimate_s: null });
  assert.equal(session.queuePosition, 1);
  channel.hear({ type: "state", state: "warming" });
  assert.equal(session.queuePosition, undefined);
  assert.deepEqual(states(), ["warming"]);
  assert.deepEqual(events.filter(([type]) => type === "queue").map(([, place]) => place),
    [{ position: 2, estimateS: 40 }, { position: 1, estimateS: null }]);
});

test("what is said in the queue before the connection counts as open is not lost", async () => {
  const world = makeWorld();
  world.connects = false;
  const opening = new StreamgenClient(world.options()).open(camera());
  await settle();
  world.peers[0].channel.hear({ type: "state", state: "queued" });
  world.peers[0].channel.hear({ type: "queue", position: 3, estimate_s: 12.5 });
  world.peers[0].become("connected");
  const session = await opening;
  assert.deepEqual([session.state, session.queue], ["queued", { position: 3, estimateS: 12.5 }]);
  assert.equal(world.peers[0].transceiver.sender.track, null); // frames would be sent for nothing
  const other = camera();
  await session.replaceSource(other);
  assert.equal(world.peers[0].transceiver.sender.track, null);
  world.peers[0].channel.hear({ type: "state", state: "warming" });
  assert.equal(world.peers[0].transceiver.sender.track, other.getVideoTracks()[0]);
});

test("the quality that runs is told and kept", async () => {
  const { world, session, events } = await opened();
  assert.equal(session.quality, undefined);
  const quality = { rung: 3, rungs: 6, steps: 1, fps: 8, width: 256, height: 144, vae: "full", reason: "load" };
  world.peers[0].channel.hear({ type: "quality", ...quality });
  assert.deepEqual(session.quality, quality);
  assert.deepEqual(events, [["quality", quality]]);
});

test("with patience a service without room is asked again, a little later than it says", async () => {
  const world = makeWorld();
  world.answers.push(busy, busy);
  const opening = new StreamgenClient(world.options()).open(camera(), {}, { patience: 60 });
  await world.timers.pass(7699);
  assert.equal(world.made("POST").length, 1);
  await world.timers.pass(1);
  await settle();
  assert.equal(world.made("POST").length, 2);
  await world.timers.pass(7700);
  assert.equal((await opening).id, "s1");
  assert.deepEqual(world.peers.map(({ closed }) => closed), [true, true, false]);
});

test("patience ends with one more attempt, and is for want of room only", async () => {
  const world = makeWorld();
  world.answers.push(busy, busy, busy);
  const client = new StreamgenClient(world.options());
  const refused = assert.rejects(client.open(camera(), {}, { patience: 10 }), BusyError);
  await world.timers.pass(10000);
  await refused;
  assert.deepEqual([world.made("POST").length, world.timers.now], [3, 10000]);
  world.answers.push([422, { error: { code: "bad_params", message: "noise: is 3", field: "noise" } }]);
  await assert.rejects(client.open(camera(), {}, { patience: 10 }), ParamsError);
});

test("waiting for room can be aborted", async () => {
  const world = makeWorld();
  world.answers.push(busy);
  const abort = new AbortController();
  const opening = assert.rejects(
    new StreamgenClient(world.options()).open(camera(), {}, { patience: 60, signal: abort.signal }), { name: "AbortError" });
  await settle();
  abort.abort();
  await opening;
  assert.deepEqual(world.timers.due, []);
});

test("who comes back does not hear that it was away; statistics of the network are passed on", async () => {
  const { world, events, session } = await opened();
  const { channel } = world.peers[0];
  const network = { packets: 900, missing: 3, recovered: 2, key_frame_requests: 0 };
  for (const message of [{ type: "state", state: "away" }, { type: "state", state: "live" }, { type: "stats", state: "live", network }]) {
    channel.hear(message);
  }
  assert.deepEqual(events.map(([type, { state }]) => [type, state]), [["state", "live"], ["stats", "live"]]);
  assert.deepEqual(session.stats.network, network);
});

test("pause, resume and reset are sent", async () => {
  const { world, session } = await opened();
  session.pause();
  session.resume();
  session.reset();
  assert.deepEqual(world.peers[0].channel.sent.map(({ type }) => type), ["pause", "resume", "reset"]);
});

test("a lost connection comes back to the same session", async () => {
  const { world, session, states } = await opened();
  world.peers[0].become("failed");
  const update = session.update({ steps: 3 });
  await world.timers.pass(250);
  await settle();
  assert.ok(world.peers[0].closed);
  assert.equal(session.id, "s1");
  assert.deepEqual(world.made("DELETE"), []);
  const again = world.made("POST")[1];
  assert.equal(again.path, "/base/api/sessions/s1");
  assert.deepEqual(again.body, { sdp: "offer 1 with candidates", type: "offer" });
  assert.deepEqual(session.params, { fps: 16, slo_ms: 1000, prompt: "neon" });
  world.peers[1].channel.hear({ type: "applied", seq: 1, frame: 40 });
  assert.deepEqual(await update, { frame: 40 });
  assert.deepEqual(states(), ["reconnecting", "warming"]);
});

test("what was asked for meanwhile holds when the session is back, whatever it has kept", async () => {
  const { world, session } = await opened();
  session.pause();
  world.peers[0].become("failed");
  session.resume();
  session.reset();
  await world.timers.pass(250);
  await settle();
  assert.deepEqual(world.peers[1].channel.sent.map(({ type }) => type), ["resume", "reset"]);
});

test("where that has ended, another takes up its parameters, its stream and what was asked meanwhile", async () => {
  const { world, session, events, states } = await opened();
  world.forgets = true;
  const { stream } = session;
  session.pause();
  world.peers[0].become("failed");
  assert.equal(session.state, "reconnecting");
  const update = session.update({ steps: 3 });
  await world.timers.pass(250);
  await settle();
  assert.equal(session.id, "s2");
  assert.deepEqual(world.made("POST")[2].body.params, { prompt: "neon" });
  assert.deepEqual(world.peers[1].configuration.iceServers, [{ urls: "turn:t" }]);
  assert.deepEqual(world.peers[1].channel.sent, [{ type: "update", seq: 1, params: { steps: 3 } }, { type: "pause" }]);
  assert.equal(session.stream, stream);
  assert.deepEqual(events.filter(([type]) => type === "moved"), [["moved", { reason: "media connection failed" }]]);
  assert.deepEqual(stream.getTracks().map(({ id }) => id), ["result 1"]);
  world.peers[1].channel.hear({ type: "applied", seq: 1, frame: 0 });
  await update;
  assert.deepEqual(states(), ["reconnecting", "warming"]);
});

test("a session that is asked to leave goes on until another takes its place", async () => {
  const { world, session, events, states } = await opened();
  const [old] = world.peers;
  session.pause();
  world.answers.push(busy);
  old.channel.hear({ type: "moving", reason: "repair" });
  const update = session.update({ steps: 3 });
  await world.timers.pass(0);
  await settle();
  assert.deepEqual([old.closed, session.state, session.stream.getTracks()[0].id], [false, "reconnecting", "result 0"]);
  old.channel.hear({ type: "closing", reason: "it took too long" });
  old.become("failed");
  assert.equal(session.state, "reconnecting");
  await world.timers.pass(7000);
  await settle();
  assert.deepEqual(world.made("POST").map(({ path }) => path), Array(3).fill("/base/api/sessions"));
  assert.deepEqual(world.made("POST").at(-1).body.params, { prompt: "neon" });
  assert.deepEqual([old.closed, session.id, session.stream.getTracks()[0].id], [true, "s2", "result 2"]);
  assert.deepEqual(world.made("DELETE").map(({ path }) => path), ["/base/api/sessions/s1"]);
  assert.deepEqual(world.peers[2].channel.sent, [{ type: "update", seq: 1, params: { steps: 3 } }, { type: "pause" }]);
  assert.deepEqual(events.filter(([type]) => type === "moved" || type === "closing"), [["moved", { reason: "repair" }]]);
  assert.deepEqual(states(), ["reconnecting", "reconnecting", "warming"]);
  world.peers[2].channel.hear({ type: "applied", seq: 1, frame: 0 });
  await update;
  world.peers[2].channel.hear({ type: "moving", reason: "once more" });
  await world.timers.pass(0);
  await settle();
  assert.equal(session.id, "s3");
});

test("close while another place is looked for ends both", async () => {
  const { world, session } = await opened();
  world.answers.push(busy);
  world.peers[0].channel.hear({ type: "moving", reason: "repair" });
  await world.timers.pass(0);
  await settle();
  await session.close();
  assert.ok(world.peers.every(({ closed }) => closed));
  await world.timers.pass(60000);
  assert.deepEqual(world.made("DELETE").map(({ path }) => path), ["/base/api/sessions/s1"]);
  assert.equal(world.made("POST").length, 2);
});

test("where no other takes it, a session that was asked to leave is given back", async () => {
  const { world, session, events } = await opened();
  world.answers.push([401, { error: { code: "unauthorized", message: "token?" } }]);
  world.peers[0].channel.hear({ type: "moving", reason: "repair" });
  await world.timers.pass(0);
  await settle();
  assert.deepEqual([session.state, world.peers[0].closed], ["closed", true]);
  assert.ok(events.some(([type, error]) => type === "error" && error instanceof UnauthorizedError));
  assert.deepEqual(world.made("DELETE").map(({ path }) => path), ["/base/api/sessions/s1"]);
});

test("a page of the service's own asks that nobody leads it elsewhere", async () => {
  const world = makeWorld();
  for (const [origin, wanted] of [["http://host", "relay"], ["http://other", undefined]]) {
    globalThis.location = { origin };
    try {
      await new StreamgenClient(world.options()).presets();
    } finally {
      delete globalThis.location;
    }
    assert.equal(world.requests.at(-1).headers.Prefer, wanted);
  }
});

test("another session is asked for what was asked for, and leaves the size to the source again", async () => {
  const world = makeWorld();
  const { usual } = world;
  world.usual = (request) => {
    const [status, body] = usual(request);
    return [status, body?.params ? { ...body, params: { width: 320, height: 192, ...body.params } } : body];
  };
  const { session } = await opened(world);
  world.forgets = true;
  assert.deepEqual([session.params.width, session.params.height], [320, 192]);
  const update = session.update({ noise: 0.3 });
  world.peers[0].channel.hear({ type: "applied", seq: 1, frame: 8 });
  await update;
  world.forgets = true;
  world.peers[0].become("failed");
  await world.timers.pass(250);
  await settle();
  assert.deepEqual(world.made("POST")[2].body.params, { prompt: "neon", noise: 0.3 });
});

test("H264, which says what its colours mean, is asked for before the others", async () => {
  const codecs = ["video/VP8", "video/rtx", "video/H264", "video/H264", "video/AV1"].map((mimeType, id) => ({ mimeType, id }));
  const world = makeWorld();
  world.onTransceiver = (transceiver) => {
    transceiver.setCodecPreferences = (wanted) => { transceiver.codecs = wanted.map(({ id }) => id); };
  };
  for (const [known, wanted] of [[codecs, [2, 3, 0, 1, 4]], [codecs.slice(0, 2), undefined]]) {
    globalThis.RTCRtpReceiver = { getCapabilities: () => ({ codecs: known }) };
    try {
      await opened(world);
    } finally {
      delete globalThis.RTCRtpReceiver;
    }
    assert.deepEqual(world.peers.at(-1).transceiver.codecs, wanted);
  }
});

test("a short disconnection is waited out, a long one is a loss", async () => {
  const { world, session } = await opened();
  world.peers[0].become("disconnected");
  await world.timers.pass(2400);
  world.peers[0].become("connected");
  await world.timers.pass(10000);
  assert.equal(session.id, "s1");
  world.peers[0].become("disconnected");
  await world.timers.pass(2500);
  assert.equal(session.state, "reconnecting");
});

test("a closed control channel is a loss too", async () => {
  const { world, session } = await opened();
  world.peers[0].channel.drop();
  assert.equal(session.state, "reconnecting");
});

test("reconnecting backs off, obeys Retry-After, and gives up in the end with an error", async () => {
  const { world, session, events } = await opened();
  world.answers.push(new TypeError("down"), busy, ...Array(9).fill(new TypeError("down")));
  world.peers[0].become("failed");
  await world.timers.pass(60000);
  await settle();
  const waits = events.filter(([type, { state }]) => type === "state" && state === "reconnecting");
  assert.deepEqual(waits.map(([, { retryInMs }]) => retryInMs), [250, 1000, 7000, 4000, 8000, 10000, 10000, 10000]);
  assert.equal(session.state, "closed");
  assert.deepEqual(events.filter(([type]) => type === "error").map(([, error]) => error.code), ["connect_failed"]);
  assert.deepEqual(world.made("DELETE").map(({ path }) => path), ["/base/api/sessions/s1"]);
});

test("reconnecting does not insist where the service refuses for good", async () => {
  const { world, session, events } = await opened();
  world.answers.push([401, { error: { code: "unauthorized", message: "token?" } }]);
  world.peers[0].become("failed");
  await world.timers.pass(250);
  await settle();
  assert.equal(session.state, "closed");
  assert.ok(events.some(([type, error]) => type === "error" && error instanceof UnauthorizedError));
});

test("a session that the service closes does not come back by itself", async () => {
  const { world, session, events } = await opened();
  const update = session.update({ steps: 1 });
  world.peers[0].channel.hear({ type: "closing", reason: "idle" });
  await assert.rejects(update, ClosedError);
  world.peers[0].channel.drop();
  await world.timers.pass(60000);
  assert.equal(session.state, "closed");
  assert.equal(world.made("POST").length, 1);
  assert.deepEqual(events[0], ["closing", { reason: "idle" }]);
});

test("close ends it on both sides, once, and survives the page", async () => {
  const { world, session, states } = await opened();
  const update = session.update({ steps: 1 });
  await Promise.all([session.close(), session.close(), assert.rejects(update, ClosedError)]);
  assert.ok(world.peers[0].closed);
  assert.deepEqual(world.made("DELETE").map(({ keepalive }) => keepalive), [true]);
  assert.deepEqual(states(), ["closed"]);
  await assert.rejects(session.update({}), ClosedError);
});

test("close while reconnecting opens nothing more", async () => {
  const { world, session } = await opened();
  world.peers[0].become("failed");
  await session.close();
  await world.timers.pass(60000);
  assert.equal(world.made("POST").length, 1);
  assert.equal(session.state, "closed");
});

test("another source goes out without a new session, and is kept over a reconnect", async () => {
  const { world, session } = await opened();
  await session.replaceSource(camera("second"));
  assert.equal(world.peers[0].transceiver.sender.track.id, "second");
  world.peers[0].become("failed");
  await world.timers.pass(250);
  await settle();
  assert.equal(world.peers[1].transceiver.sender.track.id, "second");
});

test("the link for viewers is below the service's own address", async () => {
  const { world, session } = await opened();
  const { usual } = world;
  world.usual = (request) => (request.method === "GET" ? [200, { watch: "/watch/abc" }] : usual(request));
  assert.equal(String(await session.viewerLink()), "http://host/base/watch/abc");
  assert.equal(world.made("GET").at(-1).path, "/base/api/sessions/s1");
  await session.close();
  await assert.rejects(session.viewerLink(), ClosedError);
});

test("on gives a way to stop listening", async () => {
  const { world, session } = await opened();
  let heard = 0;
  const off = session.on("queue", () => heard++);
  world.peers[0].channel.hear({ type: "queue", position: 1 });
  off();
  world.peers[0].channel.hear({ type: "queue", position: 1 });
  assert.equal(heard, 1);
});
