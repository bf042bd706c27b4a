#!/usr/bin/env python
"""Makes docs/images/page.png: the page at work in Chromium, with a video or a drawn scene in the camera's place.

scripts/make_page_picture.py [--clip VIDEO] [--url URL of a running server; else one is started] [--prompt TEXT]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
from av.video.frame import VideoFrame
from playwright.async_api import Error as BrowserError
from playwright.async_api import Page, async_playwright

from streamgen.bench.scenes import from_file, synthetic
from streamgen.bench.server import running, serve_command
from streamgen.core import Pixels
from streamgen.errors import StreamgenError

SIZE = (832, 480)
RATE = 16
SECONDS = 20
FLAGS = [
    "--no-sandbox",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def write_camera_file(pictures: Iterator[Pixels], path: Path) -> None:
    """A .y4m file for Chromium's fake camera, which plays it over and over."""
    with av.open(path, "w", format="yuv4mpegpipe") as container:
        stream = container.add_stream("rawvideo", rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode(None))


async def photograph(page: Page, url: str, prompt: str, out: Path, settle_s: float) -> None:
    """Starts the stream on the page, lets it run, and takes the picture."""
    await page.goto(url)
    await page.fill("#prompt", prompt)
    await page.click("#start")
    await page.wait_for_selector("body[data-state=live]", timeout=60_000)
    await page.wait_for_timeout(settle_s * 1000)
    # Chromium calls its fake camera by the path of the file that it plays.
    await page.evaluate("document.querySelectorAll('select option').forEach((o) => { o.textContent = 'Camera'; })")
    await page.mouse.move(0, 0)
    out.parent.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=out)


async def make_picture(args: argparse.Namespace) -> None:
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        camera = folder / "camera.y4m"
        pictures = from_file(args.clip, *SIZE) if args.clip else synthetic(*SIZE)
        write_camera_file(islice(pictures, RATE * SECONDS), camera)

        url = args.url or await stack.enter_async_context(running(serve_command([]), start_timeout_s=300))
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(
            executable_path=args.chromium, args=[*FLAGS, f"--use-file-for-fake-video-capture={camera}"]
        )
        stack.push_async_callback(browser.close)
        page = await browser.new_page(viewport={"width": args.width, "height": args.height})
        await photograph(page, url, args.prompt, args.out, args.settle)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clip", type=Path, help="the video in the camera's place (default: a drawn scene)")
    parser.add_argument("--url", help="a running server (default: one is started for the picture)")
    parser.add_argument("--prompt", default="watercolour on paper")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images" / "page.png")
    parser.add_argument("--settle", type=float, default=8.0, help="seconds that the stream runs before the picture")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser (default: chromium on PATH)")
    args = parser.parse_args()
    try:
        asyncio.run(make_picture(args))
    except (StreamgenError, BrowserError) as error:
        print(f"make_page_picture: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
