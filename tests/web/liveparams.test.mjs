import assert from "node:assert/strict";
import { test } from "node:test";

import { LiveParams } from "../../web/liveparams.js";
import { makeWorld, settle } from "./fakes.mjs";

function setup() {
  const { timers } = makeWorld();
  const sent = [];
  const reports = [];
  const send = (params) => new Promise((resolve, reject) => sent.push({ params, resolve, reject }));
  return { timers, sent, reports, live: new LiveParams({ send, timers, report: (report) => reports.push(report) }) };
}

test("a change goes out after the pause, with the last value only", async () => {
  const { timers, sent, reports, live } = setup();
  live.set({ prompt: "n" }, 700);
  await timers.pass(500);
  live.set({ prompt: "neon" }, 700);
  await timers.pass(699);
  assert.equal(sent.length, 0);
  await timers.pass(1);
  assert.deepEqual(sent.map(({ params }) => params), [{ prompt: "neon" }]);
  sent[0].resolve({ frame: 8 });
  await settle();
  assert.deepEqual(reports.map(({ status }) => status), ["waiting", "waiting", "sending", "applied"]);
  assert.equal(reports[3].frame, 8);
});

test("while one change is under way, later ones merge", async () => {
  const { sent, live } = setup();
  live.set({ noise: 0.1 });
  live.set({ noise: 0.2 });
  live.set({ noise: 0.3, steps: 4 });
  assert.equal(sent.length, 1);
  sent[0].resolve({ frame: 1 });
  await settle();
  assert.deepEqual(sent.map(({ params }) => params), [{ noise: 0.1 }, { noise: 0.3, steps: 4 }]);
});

test("a refusal is reported and does not hold up what follows", async () => {
  const { sent, reports, live } = setup();
  live.set({ noise: 9 });
  sent[0].reject(new Error("noise: must be from 0 to 1"));
  await settle();
  assert.deepEqual(reports.at(-1), { status: "rejected", message: "noise: must be from 0 to 1" });
  live.set({ noise: 1 });
  assert.equal(sent.length, 2);
});

test("forget drops what has not gone out; close says nothing more", async () => {
  const { timers, sent, reports, live } = setup();
  live.set({ prompt: "half a wor" }, 700);
  live.forget("prompt");
  await timers.pass(700);
  assert.equal(sent.length, 0);
  live.set({ steps: 1 });
  live.close();
  sent[0].resolve({ frame: 1 });
  await settle();
  assert.equal(reports.at(-1).status, "sending");
  live.set({ steps: 2 });
  assert.equal(sent.length, 1);
});
