import assert from "node:assert/strict";
import { test } from "node:test";

import { openCamera, sizeLike } from "../../web/sources.js";

const wish = { width: 640, height: 384, fps: 16 };

test("a camera is asked for its own shape, near the wished resolution", async () => {
  const asked = [];
  const track = { label: "Front", contentHint: "", getSettings: () => ({ facingMode: "user" }), stop() {} };
  const getUserMedia = async (constraints) => {
    asked.push(constraints);
    return { getVideoTracks: () => [track] };
  };
  const source = await openCamera({ getUserMedia }, wish);
  assert.equal(source.label, "Front");
  const [{ video }] = asked;
  assert.equal(video.resizeMode, "none");
  assert.deepEqual([video.width, video.height], [{ ideal: 640 }, { ideal: 384 }]);
  assert.equal(video.aspectRatio, undefined);
});

test("a file keeps its shape, with about as many pixels as were wished for", () => {
  assert.deepEqual(sizeLike({ width: 1920, height: 1152 }, wish), { width: 640, height: 384 });
  for (const [width, height] of [[1080, 1920], [641, 479], [4000, 3000], [100, 77]]) {
    const size = sizeLike({ width, height }, wish);
    assert.equal(size.width % 2 + size.height % 2, 0);
    assert.ok(Math.abs(size.width / size.height / (width / height) - 1) < 0.01);
    assert.ok(Math.abs(size.width * size.height / (640 * 384) - 1) < 0.01);
  }
});
