import assert from "node:assert/strict";
import { test } from "node:test";

import { duration, fps, History, lost, promise, RateMeter, reasons, reshaped, stages } from "../../web/meter.js";

const stats = { fps_in: 16, fps_out: 15.5, latency_ms: { p50: 400, p95: 600, max: 900 }, frames_in: 99, frames_out: 90,
  deadline_misses: 0, drops: {}, plan: {}, state: "live" };

test("the meter gives the rate of the last seconds", () => {
  const meter = new RateMeter();
  assert.equal(meter.rate(0), undefined);
  for (let t = 0; t <= 10000; t += 50) meter.tick(t);
  assert.ok(Math.abs(meter.rate(10000) - 20) < 0.01);
});

test("a stream that stops shows at once, and a restart is clean", () => {
  const meter = new RateMeter();
  for (let t = 0; t <= 2000; t += 50) meter.tick(t);
  assert.ok(meter.rate(3000) < 12);
  assert.equal(meter.rate(9000), undefined);
  meter.tick(9500);
  meter.reset();
  assert.equal(meter.rate(9500), undefined);
});

test("durations and rates are short", () => {
  assert.deepEqual([420.4, 1250, undefined, NaN].map(duration), ["420 ms", "1.25 s", "–", "–"]);
  assert.deepEqual([15.96, 0, undefined].map(fps), ["16.0", "0.0", "–"]);
});

test("drops are told by reason; what was asked for is no loss", () => {
  const drops = { rate: 300, late: 2, overload: 5, error: 0, some_new_one: 1, unwatched: 40, queued: 30 };
  assert.deepEqual(reasons(drops), [["above the frame rate", 300], ["while nobody watched", 40],
    ["while in the queue", 30], ["newer frames were there", 5],
    ["too late to be of use", 2], ["some new one", 1]]);
  assert.equal(lost(drops), 8);
});

test("the promise is kept, broken, or not known yet", () => {
  const params = { fps: 16, slo_ms: 1000 };
  assert.deepEqual(promise(params, stats), { text: "16 fps in 1 s", kept: true });
  assert.equal(promise(params, { ...stats, fps_out: 12 }).kept, false);
  assert.equal(promise(params, { ...stats, latency_ms: { p50: 1, p95: 1001, max: 2000 } }).kept, false);
  assert.equal(promise(params, { ...stats, fps_in: 10, fps_out: 10 }).kept, true);
  assert.equal(promise(params, undefined).kept, undefined);
  assert.equal(promise(params, { ...stats, frames_out: 0 }).kept, undefined);
  assert.deepEqual(promise({}, stats), { text: "–", kept: undefined });
  const lowered = { ...stats, fps_out: 8, plan: { ...stats.plan, fps: 8 } };
  assert.deepEqual(promise(params, lowered), { text: "8 fps in 1 s", kept: true });
  assert.equal(promise(params, { ...stats, plan: { ...stats.plan, promised: false } }).kept, undefined);
});

test("a curve keeps its newest values and ends at the right", () => {
  const curve = new History(3);
  assert.equal(curve.points(100, 24), "");
  [9, 1, 2, 1].forEach((value) => curve.push(value));
  assert.deepEqual(curve.values, [1, 2, 1]);
  assert.ok(curve.points(100, 24).split(" ")[2].startsWith("100.0,"));
});

test("a frame's time is shared out among its stages, in their order", () => {
  const parts = stages({ pace: 50, fill: 100, queue: 0.2, denoise: 50, unheard_of: 900 }, ["fill", "queue", "denoise", "pace"]);
  assert.deepEqual(parts.map(({ name, ms }) => [name, ms]), [["fill", 100], ["denoise", 50], ["pace", 50]]);
  assert.ok(Math.abs(parts[0].share - 0.5) < 0.01);
  assert.deepEqual(stages({}, ["fill"]), []);
});

test("a smaller picture of almost the same shape is no other shape; a turned one is", () => {
  assert.equal(reshaped(320 / 192, 256 / 144), false);
  assert.equal(reshaped(320 / 192, 160 / 96), false);
  assert.equal(reshaped(4 / 3, 16 / 9), true);
  assert.equal(reshaped(9 / 16, 16 / 9), true);
  assert.equal(reshaped(16 / 9, 0), true);
  assert.equal(reshaped(NaN, 16 / 9), false);
});
