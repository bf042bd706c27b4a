"""A test chart from Chromium through the service and back to its screen; the model gives pictures back as they were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from pipelines import fake
from tests.support.chart import chart, errors
from tests.support.chromium import CHROMIUM, camera_file, chromium
from tests.support.stage import Stage

if CHROMIUM is None:
    pytest.skip("chromium is not installed, which these tests drive", allow_module_level=True)

from playwright.async_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CLOSE = 6.0
"""Levels of 255. Measured: at most 4 (Chromium 156)."""

SIZE = 480, 640  # upright
# Sends the camera, or a canvas with these RGBA values on it; resolves to the offer.
OFFER = """
async ({ codec, drawn, width, height }) => {
  let stream;
  if (drawn) {
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { alpha: false });
    const image = new ImageData(new Uint8ClampedArray(drawn), width, height);
    setInterval(() => context.putImageData(image, 0, 0), 40);
    stream = canvas.captureStream(20);
  } else {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width, height } });
  }
  const peer = window.peer = new RTCPeerConnection();
  const transceiver = peer.addTransceiver(stream.getVideoTracks()[0], { streams: [stream] });
  const { codecs } = RTCRtpReceiver.getCapabilities("video");
  transceiver.setCodecPreferences(codecs.filter(({ mimeType }) => mimeType === `video/${codec}`));
  const video = window.video = Object.assign(document.createElement("video"), { muted: true, autoplay: true });
  document.body.append(video);
  peer.addEventListener("track", ({ track }) => { video.srcObject = new MediaStream([track]); });
  await peer.setLocalDescription(await peer.createOffer());
  while (peer.iceGatheringState !== "complete") await new Promise((done) => setTimeout(done, 20));
  return peer.localDescription.sdp;
}
"""

SHOWN = """
() => {
  const { videoWidth: width, videoHeight: height } = video;
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  context.drawImage(video, 0, 0);
  return [width, height, Array.from(context.getImageData(0, 0, width, height).data)];
}
"""


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(fake, "restyle", lambda pixels, params, chunk: pixels)
    stage = Stage()
    yield stage
    await stage.stop()


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    """An empty page whose camera sees the chart, as BT.601 in limited range."""
    empty = tmp_path / "empty.html"
    empty.write_text("<body>")
    async with chromium(camera_file(chart(*SIZE), tmp_path / "camera.y4m")) as browser:
        page = await browser.new_page()
        await page.goto(empty.as_uri())
        yield page


async def shown_errors(page: Page) -> dict[str, float]:
    width, height, flat = await page.evaluate(SHOWN)
    return errors(np.array(flat, np.uint8).reshape(height, width, 4)[:, :, :3])


@pytest.mark.parametrize(("codec", "drawn"), [("H264", False), ("VP8", False), ("H264", True)])
async def test_chromium_shows_the_colours_that_it_sent(stage: Stage, page: Page, codec: str, drawn: bool) -> None:
    """What a page draws, by VP8, is left out: Chromium sends it as full range BT.709, and VP8 cannot say so."""
    picture = np.dstack([chart(*SIZE), np.full(SIZE[::-1], 255, np.uint8)]).ravel().tolist() if drawn else None
    asked = {"codec": codec, "drawn": picture, "width": SIZE[0], "height": SIZE[1]}
    opened = await stage.service.open(await page.evaluate(OFFER, asked), {})
    await page.evaluate("sdp => peer.setRemoteDescription({ type: 'answer', sdp })", opened.sdp)
    await page.wait_for_function("video.videoWidth")
    off = await shown_errors(page)
    for _ in range(50):  # the first pictures are coarse
        if max(off.values()) < CLOSE:
            break
        await asyncio.sleep(0.2)
        off = await shown_errors(page)
    assert max(off.values()) < CLOSE, off
    assert await page.evaluate("[video.videoWidth, video.videoHeight]") == [208, 272]
