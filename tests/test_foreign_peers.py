"""Peers of other makers against `streamgen serve`: FFmpeg's WHIP muxer, werift by WHEP, Chromium by both."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from streamgen.colours import ToRgb
from tests.support.chart import chart, errors
from tests.support.chromium import CHROMIUM, camera_file, chromium
from tests.support.webrtc import TONE_HZ, Client, client, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SDP = {"Content-Type": "application/sdp"}
STUDIO = "/whip?name=studio&width=320&height=192"
CLOSE = 8.0
"""Levels of 255 that a colour may be off. Measured: at most 5, after two encoders."""

ROOT = Path(__file__).parents[1]
WERIFT = "werift@0.24.4"
"""The last that runs on Node 20."""
NPM_TIMEOUT_S = 120


@dataclass(frozen=True)
class Server:
    """`streamgen serve`, in a process of its own."""

    url: str
    log: Path

    def says(self, words: str) -> bool:
        return words in self.log.read_text()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    log = tmp_path / "server.log"
    command = [sys.executable, "-m", "streamgen.cli", "serve", "--preset", "passthrough", "--port", "0", "-v"]
    with (
        log.open("w") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        assert process.stdout is not None
        lines = (line.strip() for line in process.stdout)
        yield Server(next(line.removeprefix("ready: ") for line in lines if line.startswith("ready: ")), log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert re.findall(r"^(?:ERROR|CRITICAL|Traceback).*", log.read_text(), re.MULTILINE) == []


@asynccontextmanager
async def muxer(server: Server, directory: Path, *options: str) -> AsyncIterator[None]:
    """FFmpeg publishes the chart as "studio" within; it leaves at the end, in order."""
    command = [sys.executable, "-m", "tests.support.whip_muxer", f"{server.url}{STUDIO}", str(directory), *options]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        await process.stdout.readline()
        yield
    finally:
        process.stdin.close()
        _, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()


async def watch(server: Server, viewer: Client, stream: str = "studio") -> str:
    """Has our client watch, once there is something to be seen; the URL for its DELETE."""
    offer = (await viewer.offer()).replace("a=sendrecv", "a=recvonly")
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        answer = await http.post(f"/whep/{stream}", content=offer, headers=SDP)
        while answer.status_code == 409:
            await asyncio.sleep(0.1)
            answer = await http.post(f"/whep/{stream}", content=offer, headers=SDP)
    assert answer.status_code == 201, answer.text
    await viewer.accept(answer.text)
    return f"{server.url}{answer.headers['location']}"


async def metric(server: Server, name: str) -> float:
    async with httpx.AsyncClient(trust_env=False) as http:
        found = re.search(rf"^{name} (\S+)$", (await http.get(f"{server.url}/metrics")).text, re.MULTILINE)
    assert found, name
    return float(found[1])


async def until_said(server: Server, words: str) -> None:
    await until(lambda: server.says(words), f"the server's saying {words!r}")


def worst(viewer: Client) -> float:
    """By how many levels the newest picture's worst patch is off the chart."""
    return max(errors(ToRgb()(viewer.frames[-1])).values())


# -- FFmpeg publishes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["baseline", "high"])
async def test_ffmpeg_publishes_a_chart_and_leaves(server: Server, tmp_path: Path, profile: str) -> None:
    async with client(restarts=True) as viewer:
        async with muxer(server, tmp_path, "--profile", profile):
            await watch(server, viewer)
            await until(lambda: len(viewer.frames) > 20 and worst(viewer) < CLOSE, "a picture of the right colours")
            assert (viewer.frames[-1].width, viewer.frames[-1].height) == (320, 192)
            times = [frame.pts for frame in viewer.frames]
            assert times == sorted(set(times))
            assert await metric(server, "streamgen_sessions") == 1
        await until_said(server, "ended: closed by its publisher")  # by DELETE, not by a lost connection
        assert await metric(server, "streamgen_sessions") == 0


async def test_ffmpeg_publishes_sound_with_the_picture(server: Server, tmp_path: Path) -> None:
    async with client(restarts=True, audio=True) as viewer:
        async with muxer(server, tmp_path, "--sound"):
            await watch(server, viewer)
            await until(lambda: len(viewer.frames) > 20 and len(viewer.sounds) > 100, "picture and sound")
        heard = np.concatenate([piece.to_ndarray()[0][::2] for piece in viewer.sounds[50:100]])
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert abs(np.argmax(spectrum) * 48000 / len(heard) - TONE_HZ) < 5


# -- werift watches ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def werift() -> Path:
    """A folder with werift in its node_modules, kept from run to run."""
    if shutil.which("npm") is None:
        pytest.skip("there is no node and npm on this machine, which werift wants")
    folder = ROOT / ".cache" / WERIFT
    installing = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), WERIFT]
    if not (folder / "node_modules" / "werift" / "package.json").exists():
        try:
            done = subprocess.run(installing, capture_output=True, text=True, timeout=NPM_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm could not install {WERIFT} in {NPM_TIMEOUT_S} s")
        if done.returncode != 0:
            pytest.skip(f"npm could not install {WERIFT}: {done.stderr.strip()[:200]}")
    return folder


@pytest.mark.parametrize("codec", ["h264", "vp8"])
async def test_werift_watches_and_leaves(server: Server, tmp_path: Path, werift: Path, codec: str) -> None:
    async with client(restarts=True) as other, muxer(server, tmp_path, "--sound"):
        await watch(server, other)
        script = Path(__file__).parent / "support" / "whep_viewer.mjs"
        viewer = await asyncio.create_subprocess_exec(
            *("node", str(script), str(werift), f"{server.url}/whep/studio", codec, "60"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, complaints = await viewer.communicate()
        assert viewer.returncode == 0, complaints.decode()
        seen = json.loads(output)
        assert seen["statuses"] == [201, 200]
        assert seen["packets"] >= seen["pictures"] == 60
        assert seen["firstIsKey"]
        assert 1 <= seen["keyPictures"] < 20
        assert seen["sounds"] > 50
        before = len(other.frames)
        await until(lambda: len(other.frames) > before + 10, "the other's next pictures")  # whom that did not disturb


# -- Chromium publishes and watches ------------------------------------------------------------------------------------

PUBLISH = """
async ({ url, codec }) => {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 320, height: 192 }, audio: true });
  const peer = new RTCPeerConnection();
  for (const track of stream.getTracks()) {
    const transceiver = peer.addTransceiver(track, { direction: "sendonly", streams: [stream] });
    if (track.kind === "audio" || !codec) continue;
    const { codecs } = RTCRtpSender.getCapabilities("video");
    transceiver.setCodecPreferences(codecs.filter(({ mimeType }) => mimeType === `video/${codec}`));
  }
  await peer.setLocalDescription();
  const headers = { "Content-Type": "application/sdp" };
  const answer = await fetch(url, { method: "POST", headers, body: peer.localDescription.sdp });
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  Object.assign(window, { peer, resource: answer.headers.get("location") });
  return answer.status;
}
"""

WATCH = """
async (url) => {
  const peer = new RTCPeerConnection();
  peer.addTransceiver("video", { direction: "recvonly" });
  peer.addTransceiver("audio", { direction: "recvonly" });
  const video = Object.assign(document.createElement("video"), { muted: true, autoplay: true });
  document.body.append(video);
  const stream = video.srcObject = new MediaStream();
  peer.addEventListener("track", ({ track }) => stream.addTrack(track));
  await peer.setLocalDescription();
  const headers = { "Content-Type": "application/sdp" };
  let answer;
  do {
    if (answer) await new Promise((done) => setTimeout(done, 100));
    answer = await fetch(url, { method: "POST", headers, body: peer.localDescription.sdp });
  } while (answer.status === 409);
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  Object.assign(window, { peer, video, resource: answer.headers.get("location") });
  return answer.status;
}
"""

# The RTP timestamps of the next pictures that are shown.
SHOWN_TIMES = """
async (count) => {
  const times = [];
  while (times.length < count) {
    const shown = await new Promise((done) => video.requestVideoFrameCallback((_, picture) => done(picture)));
    times.push(shown.rtpTimestamp);
  }
  return times;
}
"""

# Its RGBA values, in base64: a list of numbers would take Playwright seconds.
SHOWN = """
() => {
  const { videoWidth: width, videoHeight: height } = video;
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  context.drawImage(video, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return [width, height, btoa(data.reduce((text, value) => text + String.fromCharCode(value), ""))];
}
"""

AUDIBLE = """
async () => [...(await peer.getStats()).values()].some(
  ({ type, kind, totalAudioEnergy }) => type === "inbound-rtp" && kind === "audio" && totalAudioEnergy > 0)
"""

GONE = "() => ['closed', 'failed', 'disconnected'].includes(peer.connectionState)"

LEAVE = "async () => (await fetch(resource, { method: 'DELETE' })).status"


@pytest.fixture
async def pages(server: Server, tmp_path: Path) -> AsyncIterator[tuple[Any, Any]]:
    """Two pages on the service's own origin; the camera sees the chart."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed, which this test drives")
    pytest.importorskip("playwright")
    async with chromium(camera_file(chart(), tmp_path / "camera.y4m")) as browser:
        pages = [await (await browser.new_context()).new_page() for _ in range(2)]
        for page in pages:
            await page.goto(server.url)
        yield pages[0], pages[1]


async def shown_error(page: Any) -> float:
    width, height, flat = await page.evaluate(SHOWN)
    assert (width, height) == (320, 192)
    return max(errors(np.frombuffer(b64decode(flat), np.uint8).reshape(height, width, 4)[:, :, :3]).values())


@pytest.mark.browser
@pytest.mark.parametrize("codec", ["H264", ""])
async def test_chromium_publishes_and_watches(server: Server, pages: tuple[Any, Any], codec: str) -> None:
    publisher, viewer = pages
    assert await publisher.evaluate(PUBLISH, {"url": STUDIO, "codec": codec}) == 201
    assert await viewer.evaluate(WATCH, "/whep/studio") == 201
    await viewer.wait_for_function("() => video.videoWidth === 320")
    times = await viewer.evaluate(SHOWN_TIMES, 20)
    assert times == sorted(set(times))
    for _ in range(100):  # the first pictures are coarse
        if (off := await shown_error(viewer)) < CLOSE:
            break
        await asyncio.sleep(0.2)
    assert off < CLOSE
    await viewer.wait_for_function(AUDIBLE)  # the fake microphone beeps once a second
    assert [await viewer.evaluate(LEAVE) for _ in range(2)] == [200, 404]
    assert await publisher.evaluate("peer.connectionState") == "connected"
    assert await publisher.evaluate(LEAVE) == 200
    await until_said(server, "ended: closed by its publisher")
    await asyncio.gather(*(page.wait_for_function(GONE) for page in pages))
