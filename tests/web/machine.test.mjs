import assert from "node:assert/strict";
import { test } from "node:test";

import { IDLE, isActive, next } from "../../web/machine.js";

const after = (...events) => events.reduce(next, IDLE);
const start = { type: "start" };
const source = { type: "source" };
const session = (state, more = {}) => ({ type: "session", state, ...more });

test("the way to a live picture", () => {
  assert.equal(after(start).name, "asking");
  assert.equal(after(start, source).name, "connecting");
  assert.equal(after(start, source, session("warming")).name, "warming");
  assert.equal(after(start, source, session("warming"), session("live")).name, "live");
});

test("a session that is already live when it opens goes straight there", () => {
  assert.equal(after(start, source, session("live")).name, "live");
});

test("pause and resume", () => {
  const live = after(start, source, session("live"));
  assert.equal(next(live, session("paused")).name, "paused");
  assert.equal(next(next(live, session("paused")), session("live")).name, "live");
});

test("a lost connection counts its attempts, and comes back", () => {
  const lost = after(start, source, session("live"), session("reconnecting", { attempt: 2 }));
  assert.deepEqual(lost, { name: "reconnecting", attempt: 2 });
  assert.equal(next(lost, session("warming")).name, "warming");
});

test("waiting for room or for the engine leads back to connecting", () => {
  const full = after(start, source, { type: "busy", retryAt: 5000 });
  assert.deepEqual(full, { name: "busy", retryAt: 5000 });
  assert.equal(next(full, { type: "retry" }).name, "connecting");
  const cold = after(start, source, { type: "starting" });
  assert.equal(cold.name, "starting");
  assert.equal(next(cold, { type: "retry" }).name, "connecting");
});

test("a place in the queue is kept until the session moves on", () => {
  const place = { type: "queue", position: 3, estimateS: 40 };
  for (const before of [session("connecting"), session("queued")]) {
    const waiting = after(start, source, before, place);
    assert.deepEqual(waiting, { name: "queued", position: 3, estimateS: 40 });
    assert.equal(next(waiting, session("queued")), waiting);
    assert.equal(next(waiting, place), waiting);
    assert.deepEqual(next(waiting, { ...place, position: 2 }), { name: "queued", position: 2, estimateS: 40 });
    assert.deepEqual(next(waiting, session("warming")), { name: "warming" });
    assert.equal(next(waiting, { type: "stop" }), IDLE);
    assert.equal(isActive(waiting), true);
  }
});

test("stop leads from everywhere to idle", () => {
  for (const events of [[], [start], [start, source], [start, source, session("live")], [{ type: "failed", problem: { code: "x" } }]]) {
    assert.equal(next(after(...events), { type: "stop" }), IDLE);
  }
});

test("a failure keeps its problem, and start leads out of it", () => {
  const failed = after(start, { type: "failed", problem: { code: "camera-refused" } });
  assert.deepEqual(failed, { name: "error", problem: { code: "camera-refused" } });
  assert.equal(next(failed, start).name, "asking");
});

test("events that come too late change nothing", () => {
  assert.equal(next(IDLE, session("live")), IDLE);
  assert.equal(next(IDLE, { type: "retry" }), IDLE);
  const live = after(start, source, session("live"));
  for (const event of [start, source, { type: "busy", retryAt: 1 }, { type: "queue", position: 1, estimateS: 1 }, session("unheard of"), session("live")]) {
    assert.equal(next(live, event), live);
  }
});

test("the start button stops in every state that goes on", () => {
  assert.equal(isActive(IDLE), false);
  assert.equal(isActive(after(start)), true);
  assert.equal(isActive(after(start, { type: "failed", problem: { code: "x" } })), false);
});
