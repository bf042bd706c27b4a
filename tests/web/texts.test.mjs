import assert from "node:assert/strict";
import { test } from "node:test";

import { ACTION_LABELS, level, loweredText, notice, problemOf, running, STAGES, STAGE_TITLES } from "../../web/texts.js";

const names = ["idle", "asking", "connecting", "starting", "busy", "queued", "warming", "paused", "reconnecting", "error"];

test("every state says what is going on", () => {
  for (const name of names) {
    const { pill, title, text, actions } = notice({ name }, 0);
    assert.ok(pill && title && text, name);
    for (const action of actions) assert.ok(ACTION_LABELS[action], action);
  }
  assert.equal(notice({ name: "live" }, 0).title, "");
});

test("what a browser says about its camera becomes a problem with a text and a way on", () => {
  for (const [name, code, title] of [
    ["NotAllowedError", "camera-refused", /refused/], ["NotFoundError", "camera-missing", /No camera/],
    ["NotReadableError", "camera-in-use", /in use/], ["OverconstrainedError", "camera-missing", /No camera/],
  ]) {
    // A DOMException's own `code` is a number and says less than its name.
    const problem = problemOf(Object.assign(new Error("x"), { name, code: 0 }));
    assert.equal(problem.code, code);
    const shown = notice({ name: "error", problem }, 0);
    assert.match(shown.title, title);
    assert.ok(shown.actions.includes("pattern"));
  }
});

test("errors of the service keep their code and message", () => {
  const error = Object.assign(new Error("prompt: is too long"), { code: "bad_params", status: 422 });
  const { text, actions } = notice({ name: "error", problem: problemOf(error) }, 0);
  assert.equal(text, "prompt: is too long");
  assert.deepEqual(actions, ["start"]);
  assert.deepEqual(problemOf({ status: 401, code: "whatever" }), { code: "unauthorized" });
});

test("a code from outside cannot reach into the table", () => {
  assert.equal(notice({ name: "error", problem: { code: "constructor" } }, 0).title, "That did not work");
});

test("the wait for a place counts down", () => {
  assert.match(notice({ name: "busy", retryAt: 5000 }, 1200).text, /in 4 s/);
  assert.match(notice({ name: "busy", retryAt: 5000 }, 9000).text, /in 0 s/);
});

test("who waits in the queue hears the place, about how long, and how to leave", () => {
  const title = (estimateS) => notice({ name: "queued", position: 2, estimateS }, 0).title;
  assert.equal(title(38.4), "You are number 2 in the queue, about 40 s");
  assert.equal(title(0.4), "You are number 2 in the queue, about 5 s");
  assert.equal(title(125), "You are number 2 in the queue, about 2 min");
  assert.equal(title(null), "You are number 2 in the queue");
  assert.equal(notice({ name: "queued" }, 0).title, "You are in the queue");
  assert.deepEqual(notice({ name: "queued", position: 2 }, 0).actions, ["leave"]);
});

test("a lower quality is told with its reason, and nothing is said where all is well", () => {
  const params = { steps: 2, fps: 16, width: 320, height: 192, vae: "full" };
  const quality = { rung: 2, rungs: 6, steps: 1, fps: 8, width: 320, height: 192, vae: "full", reason: "load" };
  assert.equal(loweredText(quality, params), "Many are watching: running at 1 step, 8 fps");
  assert.equal(loweredText({ ...quality, steps: 2, fps: 10.67, reason: "room" }, params),
    "There is more room again: running at 2 steps, 10.7 fps");
  assert.match(loweredText({ ...quality, reason: "asked" }, params), /^Still less than you asked for/);
  assert.match(loweredText({ ...quality, reason: "unheard of" }, params), /^Many are watching/);
  assert.equal(loweredText({ ...quality, width: 256, height: 144, vae: "light" }, params),
    "Many are watching: running at 1 step, 8 fps, 256 × 144, light VAE");
  assert.equal(loweredText({ ...quality, vae: "light" }, { ...params, vae: "light" }), "Many are watching: running at 1 step, 8 fps");
  assert.equal(loweredText({ ...quality, rung: 0, reason: "room" }, params), "");
  assert.equal(loweredText(undefined, params), "");
});

test("the meter's details name what runs and how far down it is", () => {
  const plan = { rung: 3, rungs: 6, steps: 1, fps: 8, width: 256, height: 144, vae: "light", batch: 4 };
  assert.equal(level(plan), "3/6");
  assert.equal(level({ rung: 0, rungs: 6 }), "6/6");
  assert.equal(running(plan), "1 step, 8 fps, 256 × 144, light VAE");
  assert.deepEqual([level({}), running({})], ["", ""]);
  assert.deepEqual(Object.keys(STAGES), Object.keys(STAGE_TITLES));
});
