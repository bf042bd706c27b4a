import assert from "node:assert/strict";
import { test } from "node:test";

import { ACTION_LABELS, notice, problemOf } from "../../web/texts.js";

const names = ["idle", "asking", "connecting", "starting", "busy", "warming", "paused", "reconnecting", "error"];

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
